//! The files of PyTorch: written here as `torch.save` writes them, by torch itself, and damaged.

mod common;

use common::torch::{deepspeed_file, file, tensors};
use common::{golden, golden_shapes, tensor};
use glm::checkpoint::Checkpoint;
use hal::DType;

#[test]
fn a_state_dict_is_found_where_it_is_nested() {
    let shapes = golden_shapes(&golden("chatglm3"));
    let stored = tensors(&shapes, DType::F32);
    for bytes in [file(&stored), deepspeed_file(&stored)] {
        let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
        assert_eq!(checkpoint.names().len(), shapes.len());
        for (name, shape) in &shapes {
            let stored = checkpoint.tensor(name).unwrap();
            assert_eq!(stored.shape, shape);
            assert_eq!(stored.to_f32().unwrap(), tensor(name, shape));
        }
    }
}
