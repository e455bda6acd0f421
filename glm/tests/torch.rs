//! The files of PyTorch: as `torch.save` writes them, by torch itself, in shards of tensor
//! parallelism, quantised by the publisher, and damaged.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::common::sat::{self, Family};
use crate::common::torch::{
    self as written, Pickle, Tensor, archive, deepspeed_file, file, tensors, zip,
};
use crate::common::{Shapes, golden, golden_config, golden_shapes, tensor};
use glm::cache::Sequence;
use glm::checkpoint::{Checkpoint, StoredType};
use glm::convert::{convert, convert_in_shards};
use glm::inspect::inspect;
use glm::model::{Chunk, Model, Options, Rows};
use glm::source::ModelSource;
use hal::{DType, ErrorKind, WeightFormat};
use half::{bf16, f16};
use ops::Context;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A file of `vectors/torch`, written by torch 2.8.
fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/torch");
    folder.join(name)
}

fn source(path: &Path) -> ModelSource {
    ModelSource::Folder(path.into())
}

fn read_config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// Names, types, shapes and elements of all tensors.
fn contents(checkpoint: &Checkpoint) -> Vec<(String, StoredType, Vec<usize>, Vec<u8>)> {
    let of = |name| {
        let t = checkpoint.tensor(name).unwrap();
        let data = t.data().unwrap();
        assert_eq!(data.len(), t.bytes(), "{name}");
        (
            name.to_owned(),
            t.dtype.clone(),
            t.shape.to_vec(),
            data.into(),
        )
    };
    checkpoint.names().map(of).collect()
}

#[track_caller]
fn assert_holds(checkpoint: &Checkpoint, shapes: &Shapes, dtype: DType) {
    assert_eq!(checkpoint.names().len(), shapes.len());
    for (name, shape) in shapes {
        let stored = checkpoint.tensor(name).unwrap();
        assert_eq!(
            (stored.dtype, stored.shape),
            (&StoredType::Known(dtype), &shape[..])
        );
        let (_, wanted) = written::encode(&tensor(name, shape), dtype);
        assert_eq!(*stored.data().unwrap(), wanted, "{name}");
    }
}

#[test]
fn a_state_dict_is_found_where_it_is_nested() {
    let shapes = golden_shapes(&golden("chatglm3"));
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let stored = tensors(&shapes, dtype);
        for bytes in [file(&stored), deepspeed_file(&stored)] {
            assert_holds(&Checkpoint::from_bytes(bytes).unwrap(), &shapes, dtype);
        }
    }
}

#[test]
fn folders_of_torch_are_opened() {
    let case = golden("chatglm3");
    let (shapes, config) = (golden_shapes(&case), golden_config(&case, "chatglm"));
    let dir = TempDir::new().unwrap();
    let folder = |name: &str| dir.path().join(name);
    written::write_bin(&folder("single/pytorch_model.bin"), &shapes);
    written::write_bin(&folder("other-name/codegeex.pt"), &shapes);
    std::fs::write(folder("other-name/training_args.bin"), "x").unwrap();
    let (first, second) = shapes.split_at(shapes.len() / 2);
    let mut map = serde_json::Map::new();
    for (i, part) in [first, second].into_iter().enumerate() {
        let file = format!("pytorch_model-{:05}-of-00002.bin", i + 1);
        written::write_bin(&folder("sharded").join(&file), &part.to_vec());
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
    }
    let index = folder("sharded/pytorch_model.bin.index.json");
    let write_index = |map: &Value| {
        std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    };
    write_index(&Value::Object(map));
    for name in [
        "single",
        "other-name",
        "sharded",
        "single/pytorch_model.bin",
        "other-name/codegeex.pt",
    ] {
        assert_holds(
            &Checkpoint::open(&folder(name)).unwrap(),
            &shapes,
            DType::F32,
        );
    }
    std::fs::write(folder("sharded/config.json"), config.to_string()).unwrap();
    let facts = inspect(&source(&folder("sharded"))).unwrap();
    assert!(facts.missing.is_empty() && facts.misshapen.is_empty() && facts.unexpected.is_empty());

    // Safetensors win over torch.
    let half = shapes[..3].to_vec();
    crate::common::write_checkpoint(&folder("single"), &half, &config, false);
    assert_holds(
        &Checkpoint::open(&folder("single")).unwrap(),
        &half,
        DType::F32,
    );

    for outside in ["../x.bin", "/x.bin", "x.safetensors", ".."] {
        write_index(&json!({"w": outside}));
        let e = Checkpoint::open(&folder("sharded")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        assert!(e.to_string().contains("plain name of a .bin"), "{e}");
    }
}

#[test]
fn what_torch_wrote_is_read() {
    let checkpoint = Checkpoint::open(&fixture("views.pt")).unwrap();
    let floats = |name: &str| {
        let t = checkpoint.tensor(name).unwrap();
        (t.shape.to_vec(), t.to_f32().unwrap())
    };
    let count = |n: u8| (0..n).map(f32::from).collect::<Vec<_>>();
    for (name, shape, values) in [
        ("weight", vec![2, 3], count(6)),
        ("tied", vec![2, 3], count(6)),
        ("bias", vec![2], vec![-1.0, 1.0]),
        ("transposed", vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("slice", vec![2, 3], vec![6.0, 7.0, 8.0, 11.0, 12.0, 13.0]),
        ("column", vec![4], vec![2.0, 7.0, 12.0, 17.0]),
        ("parameter", vec![2], count(2)),
        ("scalar", vec![], vec![7.0]),
        ("empty", vec![0, 3], vec![]),
        ("f16", vec![2], count(2)),
        ("bf16", vec![2], count(2)),
    ] {
        assert_eq!(floats(name), (shape, values), "{name}");
    }
    // [2, 3, 4] with the last dimension first.
    let (shape, values) = floats("permuted");
    assert_eq!(shape, [4, 2, 3]);
    let at = |i: usize| (i % 6 * 4 + i / 6) as f32;
    assert_eq!(values, (0..24).map(at).collect::<Vec<_>>());
    let data = |name: &str| checkpoint.tensor(name).unwrap().data().unwrap();
    for (name, dtype, bytes) in [
        ("i8", "i8", &[0, 1][..]),
        ("u8", "u8", &[0, 1]),
        ("i32", "i32", &[0, 0, 0, 0, 1, 0, 0, 0]),
        (
            "i64",
            "I64",
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            "f64",
            "F64",
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
        ),
        ("bool", "BOOL", &[0, 1]),
        ("u16", "U16", &[0, 0, 1, 0]),
        ("f8", "F8_E4M3", &[0, 0x38]),
    ] {
        assert_eq!(checkpoint.tensor(name).unwrap().dtype.to_string(), dtype);
        assert_eq!(*data(name), *bytes, "{name}");
    }
    // In one piece it is borrowed, and tied tensors are the same bytes of the file.
    assert!(matches!(data("transposed"), Cow::Owned(_)));
    let (Cow::Borrowed(weight), Cow::Borrowed(tied)) = (data("weight"), data("tied")) else {
        panic!("copied");
    };
    assert!(std::ptr::eq(weight, tied));

    for protocol in [2, 4] {
        let name = format!("nested-{protocol}.pt");
        let nested = Checkpoint::open(&fixture(&name)).unwrap();
        let name = "language_model.embedding.weight";
        assert_eq!(nested.names().collect::<Vec<_>>(), [name]);
        assert_eq!(nested.tensor(name).unwrap().to_f32().unwrap(), count(4));
    }
    for (name, kind, wanted) in [
        ("legacy.pt", ErrorKind::Unsupported, "torch before 1.6"),
        (
            "module.pt",
            ErrorKind::Unsupported,
            "torch.nn.modules.linear.Linear",
        ),
        ("forbidden.pt", ErrorKind::Corrupt, "__builtin__.print"),
        (
            "expanded.pt",
            ErrorKind::Unsupported,
            "`w`: [3, 4] with stride [0, 0]",
        ),
        ("tensor.pt", ErrorKind::Unsupported, "no state dict"),
    ] {
        let e = Checkpoint::open(&fixture(name)).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(
            e.to_string().contains(wanted) && e.to_string().contains(name),
            "{e}"
        );
        assert!(e.next().is_some(), "{e}");
    }
}

/// One f32 tensor `w` of `shape` over a storage of six elements.
fn view(shape: &[usize], stride: &[usize], offset: usize) -> Tensor {
    Tensor {
        stride: Some(stride.to_vec()),
        offset,
        ..Tensor::new(0, "w", "Float", shape, vec![0; 24])
    }
}

/// A file whose pickle is a dictionary of what `items` writes.
fn dict(items: impl for<'a> Fn(&'a mut Pickle) -> &'a mut Pickle) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.op(b"}(");
    items(&mut pickle);
    archive(&pickle.op(b"u").end(), &[view(&[2, 3], &[3, 1], 0)])
}

/// A tensor `w` over storage 0 with what `sizes` writes: offset, size, stride.
fn raw(sizes: impl for<'a> Fn(&'a mut Pickle) -> &'a mut Pickle) -> Vec<u8> {
    dict(|p| {
        p.text("w")
            .global("torch._utils", "_rebuild_tensor_v2")
            .op(b"((");
        p.text("storage").global("torch", "FloatStorage");
        p.text("0").text("cpu").int(6).op(b"tQ");
        sizes(p).op(b"\x89NtR")
    })
}

#[test]
fn damaged_files_of_torch_are_named_with_their_tensor() {
    use ErrorKind::{Corrupt, Unsupported};
    let good = view(&[2, 3], &[3, 1], 0);
    let bytes = file(std::slice::from_ref(&good));
    assert!(Checkpoint::from_bytes(bytes.clone()).is_ok());
    assert!(Checkpoint::from_bytes(raw(|p| p.int(0).ints(&[6]).ints(&[1]))).is_ok());
    let entry = |name: &str, data: &[u8]| (format!("a/{name}"), data.to_vec());
    let entries = [entry("data.pkl", b"\x80\x02}."), entry("x", b"x")];
    let with = |more: (String, Vec<u8>)| zip(&[&entries[..], &[more]].concat(), 0, 0);
    let of = |tensor: Tensor| file(&[tensor]);
    let nested = |depth: usize| {
        dict(|p| {
            p.text("w").op(&b"}X\x01\0\0\0w".repeat(depth)).op(b"N");
            p.op(&b"s".repeat(depth))
        })
    };
    let cases: Vec<(&str, ErrorKind, Vec<u8>)> = vec![
        ("as a zip file", Corrupt, bytes[..bytes.len() - 9].to_vec()),
        ("as a zip file", Corrupt, b"PK\x03\x04".to_vec()),
        ("compressed or encrypted", Unsupported, zip(&entries, 8, 0)),
        ("compressed or encrypted", Unsupported, zip(&entries, 0, 1)),
        ("appears twice", Corrupt, with(entry("x", b"y"))),
        ("not one entry", Corrupt, zip(&entries[1..], 0, 0)),
        (
            "not one entry",
            Corrupt,
            with(("b/data.pkl".to_owned(), b"\x80\x02}.".to_vec())),
        ),
        (
            "not little-endian",
            Unsupported,
            with(entry("byteorder", b"big")),
        ),
        (
            "`w`: [3, 3] with stride [3, 1] from element 0 is outside",
            Corrupt,
            of(view(&[3, 3], &[3, 1], 0)),
        ),
        (
            "from element 1 is outside",
            Corrupt,
            of(view(&[2, 3], &[3, 1], 1)),
        ),
        ("is outside", Corrupt, of(view(&[2, 2], &[5, 1], 0))),
        (
            "is outside",
            Corrupt,
            of(view(&[1 << 40, 1 << 40], &[1, 1], 0)),
        ),
        (
            "is outside",
            Corrupt,
            of(view(&[2, 2], &[1 << 62, 1 << 62], 0)),
        ),
        (
            "is outside",
            Corrupt,
            of(view(&[1], &[1], i64::MAX as usize)),
        ),
        (
            "repeats elements",
            Unsupported,
            of(view(&[4, 3], &[1, 1], 0)),
        ),
        ("and stride", Corrupt, of(view(&[2, 3], &[3], 0))),
        (
            "has 24 bytes, not 9 elements of 4",
            Corrupt,
            of(Tensor {
                storage_elements: Some(9),
                ..good.clone()
            }),
        ),
        (
            "has 24 bytes, not 4611686018427387904",
            Corrupt,
            of(Tensor {
                storage_elements: Some(1 << 62),
                ..good.clone()
            }),
        ),
        (
            "torch.QInt8Storage is no element type",
            Unsupported,
            of(Tensor {
                kind: "QInt8",
                ..good.clone()
            }),
        ),
        (
            "its size -1",
            Corrupt,
            raw(|p| p.int(0).op(b"J\xff\xff\xff\xff\x85").ints(&[1])),
        ),
        (
            "its stride -2",
            Corrupt,
            raw(|p| p.int(0).ints(&[1]).op(b"J\xfe\xff\xff\xff\x85")),
        ),
        (
            "its offset is no number",
            Corrupt,
            raw(|p| p.op(b"\x8a\x09\0\0\0\0\0\0\0\0\x01").ints(&[1]).ints(&[1])),
        ),
        (
            "its size is no tuple",
            Corrupt,
            raw(|p| p.int(0).int(1).ints(&[1])),
        ),
        ("nested too deeply", Corrupt, nested(100)),
        (
            "nested too deeply",
            Corrupt,
            dict(|p| p.text("w").op(b"}q\x01").text("x").op(b"h\x01s")),
        ),
        (
            "a key in `` is not text",
            Corrupt,
            dict(|p| p.int(1).tensor(&good)),
        ),
        (
            "more than 512 bytes",
            Corrupt,
            dict(|p| p.text(&"n".repeat(600)).tensor(&good)),
        ),
        (
            "tensor `w` is in",
            Corrupt,
            dict(|p| p.text("w").tensor(&good).text("w").tensor(&good)),
        ),
        (
            "`w` is no tensor but made by numpy.core.multiarray.scalar",
            Unsupported,
            dict(|p| {
                p.text("w")
                    .global("numpy.core.multiarray", "scalar")
                    .op(b")R")
            }),
        ),
        (
            "`module` is no state dict but made by my.Model",
            Unsupported,
            dict(|p| p.text("module").global("my", "Model").op(b")\x81")),
        ),
        (
            "names os.system",
            Corrupt,
            dict(|p| {
                p.text("module")
                    .global("os", "system")
                    .text("ls")
                    .op(b"\x85R")
            }),
        ),
        (
            "is not in the file",
            Corrupt,
            archive(
                &Pickle::new()
                    .op(b"}")
                    .text("w")
                    .tensor(&good)
                    .op(b"s")
                    .end(),
                &[],
            ),
        ),
        (
            "no state dict",
            Corrupt,
            archive(&Pickle::new().int(1).end(), &[]),
        ),
    ];
    for (wanted, kind, bytes) in cases {
        let e = Checkpoint::from_bytes(bytes).unwrap_err();
        assert_eq!(e.kind(), kind, "{wanted}: {e}");
        assert!(e.to_string().contains(wanted), "{wanted}: {e}");
        assert!(e.next().is_some(), "{e}");
    }
    let e = Checkpoint::open(&fixture("generate.py")).unwrap_err();
    assert_eq!(e.kind(), Corrupt, "{e}");
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("x.bin"), "weights").unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err();
    assert!(e.kind() == Corrupt && e.to_string().contains("zip"), "{e}");
}

#[test]
fn parallel_shards_are_one_model() {
    for (case, family) in [
        ("glm130b_gmask", Family::Glm130b),
        ("glm10b_sat", Family::Glm10b),
    ] {
        let shapes = golden_shapes(&golden(case));
        for (parallel, dtype) in [(1, DType::F32), (2, DType::F16), (4, DType::BF16)] {
            let dir = TempDir::new().unwrap();
            sat::write(dir.path(), &shapes, family, parallel, dtype);
            for folder in [dir.path().to_path_buf(), dir.path().join("49300")] {
                let checkpoint = Checkpoint::open(&folder).unwrap();
                assert_holds(&checkpoint, &shapes, dtype);
                let bytes: usize = shapes
                    .iter()
                    .map(|(_, s)| s.iter().product::<usize>())
                    .sum();
                assert_eq!(checkpoint.total_bytes(), (bytes * dtype.bytes()) as u64);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    /// Whatever the widths and the number of ranks: the parts of every rule make the whole.
    #[test]
    fn any_division_merges_to_the_whole(
        parallel in 1usize..=8,
        heads_per_rank in 1usize..=3,
        head_dim in 1usize..=5,
        inner_per_rank in 1usize..=7,
        vocab_per_rank in 1usize..=9,
        blocks in any::<bool>(),
    ) {
        let hidden = parallel * heads_per_rank * head_dim;
        let inner = parallel * inner_per_rank;
        let up = if blocks { inner } else { 2 * inner };
        let mut shapes: Shapes = [
            ("word_embeddings.weight", vec![parallel * vocab_per_rank, hidden]),
            ("layers.0.input_layernorm.weight", vec![hidden]),
            ("layers.0.attention.query_key_value.weight", vec![3 * hidden, hidden]),
            ("layers.0.attention.query_key_value.bias", vec![3 * hidden]),
            ("layers.0.attention.dense.weight", vec![hidden, hidden]),
            ("layers.0.attention.dense.bias", vec![hidden]),
            ("layers.0.mlp.dense_h_to_4h.weight", vec![up, hidden]),
            ("layers.0.mlp.dense_h_to_4h.bias", vec![up]),
            ("layers.0.mlp.dense_4h_to_h.weight", vec![hidden, inner]),
            ("layers.0.mlp.dense_4h_to_h.bias", vec![hidden]),
        ]
        .map(|(name, shape)| (format!("transformer.{name}"), shape))
        .into();
        if blocks {
            shapes.push(("transformer.position_embeddings.weight".to_owned(), vec![9, hidden]));
        }
        let family = if blocks { Family::Glm10b } else { Family::Glm130b };
        let dir = TempDir::new().unwrap();
        sat::write(dir.path(), &shapes, family, parallel, DType::F16);
        assert_holds(&Checkpoint::open(dir.path()).unwrap(), &shapes, DType::F16);
    }

    /// Slices of a tensor with its dimensions in any order, against indexing.
    #[test]
    fn any_view_is_read_row_major(
        dims in prop::array::uniform3(1usize..=5),
        cuts in prop::array::uniform3((0usize..5, 0usize..5)),
        order in Just([0usize, 1, 2]).prop_shuffle(),
    ) {
        let steps = [dims[1] * dims[2], dims[2], 1];
        let count = dims.iter().product::<usize>();
        let starts: [usize; 3] = std::array::from_fn(|d| cuts[d].0 % dims[d]);
        let shape: [usize; 3] = std::array::from_fn(|d| {
            let d = order[d];
            1 + cuts[d].1 % (dims[d] - starts[d])
        });
        let offset: usize = (0..3).map(|d| starts[d] * steps[d]).sum();
        let bytes = written::encode(&(0..count).map(|x| x as f32).collect::<Vec<_>>(), DType::F32).1;
        let tensor = Tensor {
            stride: Some(order.map(|d| steps[d]).into()),
            offset,
            ..Tensor::new(0, "w", "Float", &shape, bytes)
        };
        let checkpoint = Checkpoint::from_bytes(file(&[tensor])).unwrap();
        let mut wanted = Vec::new();
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                for k in 0..shape[2] {
                    let at = [i, j, k];
                    let at: usize = (0..3).map(|d| at[d] * steps[order[d]]).sum();
                    wanted.push((offset + at) as f32);
                }
            }
        }
        prop_assert_eq!(checkpoint.tensor("w").unwrap().to_f32().unwrap(), wanted);
    }
}

#[test]
fn the_configuration_of_a_model_without_one_follows_from_its_tensors() {
    let dir = TempDir::new().unwrap();
    let config = |path: &Path| source(path).config().unwrap();
    let wide = |case: &str, hidden: usize| {
        // As the golden case, with a width of whole heads.
        let mut shapes = golden_shapes(&golden(case));
        for d in shapes.iter_mut().flat_map(|(_, shape)| shape) {
            match *d {
                32 => *d = hidden,
                96 => *d = 3 * hidden,
                _ => {}
            }
        }
        shapes
    };
    let path = dir.path().join("130b");
    sat::write(
        &path,
        &wide("glm130b_gmask", 256),
        Family::Glm130b,
        2,
        DType::F16,
    );
    let implied = json!({
        "num_layers": 3, "vocab_size": 64, "hidden_size": 256, "inner_hidden_size": 80,
        "model_type": "glm130b", "num_attention_heads": 2, "max_sequence_length": 2048
    });
    assert_eq!(config(&path), implied);
    // config.json wins, where the tensors do not say otherwise.
    let write =
        |config: Value| std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    write(json!({"model_type": "glm130b", "num_attention_heads": 4, "own": 1}));
    let completed = config(&path);
    assert_eq!(
        (&completed["num_attention_heads"], &completed["own"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(completed["num_layers"], 3);
    write(json!({"model_type": "glm130b", "num_layers": 70}));
    let e = source(&path).config().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    assert!(
        e.to_string()
            .contains("num_layers is 70; the tensors have 3"),
        "{e}"
    );

    let path = dir.path().join("10b");
    let mut shapes = wide("glm10b_sat", 128);
    sat::write(&path, &shapes, Family::Glm10b, 2, DType::F16);
    let implied = json!({
        "num_layers": 3, "vocab_size": 64, "hidden_size": 128, "inner_hidden_size": 128,
        "model_type": "glm10b", "num_attention_heads": 2, "max_sequence_length": 64
    });
    assert_eq!(config(&path), implied);
    for (name, shape) in &mut shapes {
        if name.contains("position_embeddings") {
            shape[0] = 513;
        }
    }
    sat::write(&path, &shapes, Family::Glm10b, 1, DType::F16);
    std::fs::remove_file(path.join("49300/mp_rank_01_model_states.pt")).unwrap();
    assert_eq!(config(&path)["max_sequence_length"], 513);
    // GLM's own names: its tables have a row more than its configuration says.
    for (name, _) in &mut shapes {
        *name = name
            .replace("mixins.block_position_embedding.", "transformer.")
            .replace("transformer.word_embeddings", "word_embeddings");
    }
    sat::write(&path, &shapes, Family::Glm10b, 1, DType::F16);
    let original = config(&path);
    assert_eq!(original["model_type"], "glm");
    assert_eq!(original["max_sequence_length"], 512);

    // CodeGeeX's layout: codegeex/megatron/model/language_model.py.
    let path = dir.path().join("codegeex/codegeex_13b.pt");
    let model = |name: &str| format!("language_model.{name}.weight");
    let shapes = [
        ("embedding.word_embeddings", vec![64, 256]),
        ("embedding.position_embeddings", vec![32, 256]),
        ("topQueryEmbedding.top_query_embeddings", vec![32, 256]),
        ("transformer.layers.0.attention.query", vec![256, 256]),
        ("transformer.layers.1.attention.query", vec![256, 256]),
        ("transformer.layers.0.mlp.dense_h_to_4h", vec![1024, 256]),
    ];
    let shapes: Shapes = shapes.map(|(name, shape)| (model(name), shape)).into();
    written::write_bin(&path, &shapes);
    let implied = json!({
        "model_type": "codegeex", "num_layers": 2, "vocab_size": 64, "hidden_size": 256,
        "inner_hidden_size": 1024, "num_attention_heads": 2, "max_sequence_length": 32
    });
    assert_eq!(config(&path), implied);
    assert_eq!(config(path.parent().unwrap()), implied);

    // ChatGLM-6B has the names of GLM-130B: nothing is guessed.
    let path = dir.path().join("6b/pytorch_model.bin");
    written::write_bin(&path, &golden_shapes(&golden("chatglm_v1_gmask")));
    let e = source(path.parent().unwrap()).config().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
}

#[test]
fn shards_that_do_not_fit_are_refused() {
    let shapes = golden_shapes(&golden("glm130b_gmask"));
    let dir = TempDir::new().unwrap();
    let shard = |rank: usize| {
        dir.path()
            .join(format!("49300/mp_rank_{rank:02}_model_states.pt"))
    };
    let write = |family| sat::write(dir.path(), &shapes, family, 4, DType::F16);
    #[track_caller]
    fn error(path: &Path, kind: ErrorKind, wanted: &[&str]) {
        let e = Checkpoint::open(path).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(
            wanted.iter().all(|w| e.to_string().contains(w)),
            "{wanted:?}: {e}"
        );
        assert!(e.next().is_some(), "{e}");
    }
    use ErrorKind::{Corrupt, NotFound, Unsupported};

    write(Family::Glm130b);
    std::fs::remove_file(shard(2)).unwrap();
    error(
        dir.path(),
        NotFound,
        &["mp_rank_02_model_states.pt is missing", "mp_rank_03"],
    );
    // A shard of another division, or with other tensors.
    let stored = tensors(&shapes, DType::F16);
    let part = |rank, parallel| -> Vec<Tensor> {
        let part = |t| sat::part(t, Family::Glm130b, rank, parallel);
        stored.iter().map(part).collect()
    };
    std::fs::write(shard(2), deepspeed_file(&part(1, 2))).unwrap();
    error(
        dir.path(),
        Corrupt,
        &[
            "tensor `",
            "mp_rank_00",
            "mp_rank_02",
            "[32, 8]",
            "[32, 16]",
        ],
    );
    std::fs::write(shard(2), deepspeed_file(&part(2, 4)[1..])).unwrap();
    error(dir.path(), Corrupt, &["mp_rank_02"]);
    let mut extra = part(2, 4);
    extra.push(Tensor::new(99, "extra", "Float", &[1], vec![0; 4]));
    std::fs::write(shard(2), deepspeed_file(&extra)).unwrap();
    error(dir.path(), Corrupt, &["mp_rank_02"]);
    std::fs::write(shard(2), deepspeed_file(&part(2, 4))).unwrap();
    Checkpoint::open(dir.path()).unwrap();

    let latest = dir.path().join("latest");
    for outside in ["../49300", "/tmp", "", "..", "a\\b"] {
        std::fs::write(&latest, outside).unwrap();
        error(dir.path(), Corrupt, &["latest", "folder beside it"]);
    }
    std::fs::write(&latest, "50000").unwrap();
    error(dir.path(), NotFound, &["50000"]);
    std::fs::create_dir(dir.path().join("50000")).unwrap();
    error(dir.path(), NotFound, &["no mp_rank_00_model_states.pt"]);
    std::fs::remove_file(&latest).unwrap();
    std::fs::write(
        dir.path().join("latest_checkpointed_iteration.txt"),
        "49300\n",
    )
    .unwrap();
    Checkpoint::open(dir.path()).unwrap();

    // Of vectors that all ranks have, the first counts; matrices must be equal.
    let mut parts = part(1, 4);
    let norm = parts
        .iter_mut()
        .find(|t| t.name.ends_with("final_layernorm.weight"));
    norm.unwrap().storage.1[0] ^= 1;
    std::fs::write(shard(1), deepspeed_file(&parts)).unwrap();
    assert_holds(&Checkpoint::open(dir.path()).unwrap(), &shapes, DType::F16);
    for rank in 0..4 {
        let mut parts = part(rank, 4);
        let data = vec![u8::from(rank == 3); 8];
        parts.push(Tensor::new(
            99,
            "transformer.unknown.weight",
            "Half",
            &[2, 2],
            data,
        ));
        std::fs::write(shard(rank), deepspeed_file(&parts)).unwrap();
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let e = checkpoint
        .tensor("transformer.unknown.weight")
        .unwrap()
        .data()
        .unwrap_err();
    assert_eq!(e.kind(), Corrupt, "{e}");
    assert!(e.to_string().contains("mp_rank_03"), "{e}");

    // Scales of the columns of one row, per rank.
    for rank in 0..4 {
        let mut parts = part(rank, 4);
        let name = "transformer.layers.0.attention.dense.weight_scale";
        parts.push(Tensor::new(99, name, "Half", &[32], vec![0; 64]));
        std::fs::write(shard(rank), deepspeed_file(&parts)).unwrap();
    }
    error(
        dir.path(),
        Unsupported,
        &["attention.dense.weight_scale", "f16 shards"],
    );
}

/// Quantises rows of `cols` f16 values as `quantization.py` of ChatGLM-6B does: scales, and bytes.
fn official(values: &[f16], cols: usize, bits: u32) -> (Vec<f16>, Vec<u8>) {
    let qmax = ((1 << (bits - 1)) - 1) as f32;
    let (mut scales, mut bytes) = (Vec::new(), Vec::new());
    for row in values.chunks(cols) {
        let max = row.iter().map(|x| x.to_f32().abs()).fold(0.0, f32::max);
        let scale = f16::from_f32(max / qmax);
        let q = |x: &f16| {
            let quotient = f16::from_f32(x.to_f32() / scale.to_f32());
            quotient.to_f32().round_ties_even() as i8
        };
        let row: Vec<i8> = row.iter().map(q).collect();
        match bits {
            8 => bytes.extend(row.iter().map(|&q| q as u8)),
            _ => bytes.extend(row.chunks(2).map(|p| (p[0] as u8) << 4 | p[1] as u8 & 15)),
        }
        scales.push(scale);
    }
    (scales, bytes)
}

/// An official quantised `.bin` of the tensors: those of `matrices` as i8 with scales.
fn write_official(
    path: &Path,
    shapes: &Shapes,
    matrices: &[String],
    bits: u32,
    scale_type: DType,
) -> Vec<Tensor> {
    let mut stored = Vec::new();
    for tensor in tensors(shapes, DType::F16) {
        let mut add = |name: &str, kind, shape: &[usize], data| {
            stored.push(Tensor::new(stored.len(), name, kind, shape, data));
        };
        if !matrices.contains(&tensor.name) {
            add(&tensor.name, "Half", &tensor.shape, tensor.storage.1);
            continue;
        }
        let halves = tensor
            .storage
            .1
            .chunks(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]));
        let [rows, cols] = tensor.shape[..] else {
            panic!("{tensor:?}");
        };
        let (scales, bytes) = official(&halves.collect::<Vec<_>>(), cols, bits);
        add(
            &tensor.name,
            "Char",
            &[rows, cols * bits as usize / 8],
            bytes,
        );
        let scales: Vec<f32> = scales.into_iter().map(f16::to_f32).collect();
        let (kind, scales) = written::encode(&scales, scale_type);
        add(&format!("{}_scale", tensor.name), kind, &[rows], scales);
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, file(&stored)).unwrap();
    stored
}

fn logits(folder: &Path, weights: Option<WeightFormat>) -> Vec<f32> {
    let options = backend_cpu::Options {
        threads: Some(2),
        ..backend_cpu::Options::default()
    };
    let context = Context::new(backend_cpu::open(&options).unwrap());
    let source = source(folder);
    let options = Options {
        dtype: Some(DType::F32),
        weights,
        max_logits: 64,
        max_sequences: 4,
        ..Options::default()
    };
    let architecture = source.architecture().unwrap();
    let checkpoint = source.checkpoint().unwrap();
    let model = Model::load(&context, &architecture, &checkpoint, &options, |_, _| {});
    let mut model = model.unwrap();
    let mut sequence: Sequence = model.sequence();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids: &[1, 5, 9, 33, 7, 2],
        positions: None,
    };
    model.forward(&mut [chunk], Rows::All).unwrap();
    model.read_logits().unwrap()
}

#[test]
fn official_quantised_checkpoints_compute_what_quantising_on_load_does() {
    // The quantiser of this test against the official one.
    let case = golden("quant");
    let values: Vec<f16> = tensor("quant.weight", &[6, 16])
        .into_iter()
        .map(f16::from_f32)
        .collect();
    let numbers = |v: &Value| -> Vec<f64> {
        let rows = v.as_array().unwrap().iter();
        let of = |v: &Value| match v.as_array() {
            Some(row) => row.iter().map(|x| x.as_f64().unwrap()).collect(),
            None => vec![v.as_f64().unwrap()],
        };
        rows.flat_map(of).collect()
    };
    let (scales, bytes) = official(&values, 16, 4);
    let scales: Vec<f32> = scales.into_iter().map(f16::to_f32).collect();
    let wanted: Vec<f32> = numbers(&case["int4"]["scale"])
        .iter()
        .map(|&x| x as f32)
        .collect();
    assert_eq!(scales, wanted);
    let bytes: Vec<f64> = bytes.into_iter().map(f64::from).collect();
    assert_eq!(bytes, numbers(&case["int4"]["packed_u8"]));

    let case = golden("chatglm3");
    let (shapes, config) = (golden_shapes(&case), golden_config(&case, "chatglm"));
    let dir = TempDir::new().unwrap();
    let folder = |name: &str| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        folder
    };
    let dense = folder("f16");
    std::fs::write(
        dense.join("pytorch_model.bin"),
        file(&tensors(&shapes, DType::F16)),
    )
    .unwrap();
    let architecture = source(&dense).architecture().unwrap();
    let layers = (0..architecture.layers).flat_map(|i| architecture.matrices(i));
    let matrices: Vec<_> = layers.map(|(key, _)| format!("{key}.weight")).collect();
    for (bits, format) in [(8, WeightFormat::Int8Row), (4, WeightFormat::Int4Row)] {
        let quantised = folder(&format!("int{bits}"));
        let bin = quantised.join("pytorch_model.bin");
        for scale_type in [DType::F16, DType::F32] {
            write_official(&bin, &shapes, &matrices, bits, scale_type);
            let facts = inspect(&source(&quantised)).unwrap();
            assert_eq!(facts.weights, format.to_string());
            assert!(
                facts.misshapen.is_empty() && facts.unexpected.is_empty(),
                "{facts:?}"
            );
            assert_eq!(
                logits(&quantised, None),
                logits(&dense, Some(format)),
                "int{bits}"
            );
        }
        // Converted it keeps its integers and scales.
        let converted = dir.path().join(format!("int{bits}-safetensors"));
        convert(&quantised, &converted, None).unwrap();
        let (a, b) = (
            Checkpoint::open(&quantised).unwrap(),
            Checkpoint::open(&converted).unwrap(),
        );
        assert_eq!(contents(&a), contents(&b));
        assert_eq!(
            logits(&converted, None),
            logits(&dense, Some(format)),
            "int{bits}"
        );
        for format in [WeightFormat::Int8Row, WeightFormat::Dense(DType::F32)] {
            let e = convert(&quantised, &dir.path().join("x"), Some(format)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        }

        // bf16 scales are widened exactly.
        let mut stored = write_official(&bin, &shapes, &matrices, bits, DType::BF16);
        let checkpoint = Checkpoint::open(&bin).unwrap();
        let key = matrices[0].trim_end_matches(".weight");
        let weight = checkpoint.linear(key, architecture.hidden).unwrap();
        let scale = checkpoint.tensor(&format!("{key}.weight_scale")).unwrap();
        let first = scale.data().unwrap();
        assert_eq!(weight.format, format);
        assert_eq!(
            weight.scale(0, 0),
            bf16::from_le_bytes([first[0], first[1]]).to_f32()
        );

        // Without its scales a quantised weight is named with what is missing.
        stored.retain(|t| t.name != format!("{key}.weight_scale"));
        let checkpoint = Checkpoint::from_bytes(file(&stored)).unwrap();
        let e = checkpoint.linear(key, architecture.hidden).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        assert!(
            e.to_string()
                .contains(&format!("`{key}.weight_scale` is missing")),
            "{e}"
        );
        // And with those of other rows.
        stored.push(Tensor::new(
            999,
            &format!("{key}.weight_scale"),
            "Half",
            &[3],
            vec![0; 6],
        ));
        let checkpoint = Checkpoint::from_bytes(file(&stored)).unwrap();
        let e = checkpoint.linear(key, architecture.hidden).unwrap_err();
        assert!(
            e.kind() == ErrorKind::Corrupt && e.to_string().contains("[3]"),
            "{e}"
        );
    }
}

#[test]
fn conversion_keeps_every_tensor() {
    let dir = TempDir::new().unwrap();
    let target = |name: &str| dir.path().join(name);
    // One file of every type and view; no configuration, none invented.
    let report = convert(&fixture("views.pt"), &target("views"), None).unwrap();
    let original = Checkpoint::open(&fixture("views.pt")).unwrap();
    let read = Checkpoint::open(&target("views")).unwrap();
    assert_eq!(contents(&original), contents(&read));
    assert_eq!(
        (report.matrices, report.copied),
        (0, original.names().len())
    );
    assert_eq!(
        (report.bytes, report.source_bytes),
        (read.total_bytes(), original.total_bytes())
    );
    let files = std::fs::read_dir(target("views")).unwrap();
    assert_eq!(files.count(), 1);

    // Shards, merged and divided anew; what lies beside them comes along.
    let source_folder = target("sat");
    let shapes = golden_shapes(&golden("glm130b_gmask"));
    sat::write(&source_folder, &shapes, Family::Glm130b, 4, DType::F16);
    std::fs::write(source_folder.join("ice_text.model"), "pieces").unwrap();
    let config = json!({"model_type": "glm130b", "num_attention_heads": 4});
    std::fs::write(source_folder.join("config.json"), config.to_string()).unwrap();
    let report = convert_in_shards(&source_folder, &target("merged"), None, 5_000).unwrap();
    assert!(report.shards > 2);
    assert_holds(
        &Checkpoint::open(&target("merged")).unwrap(),
        &shapes,
        DType::F16,
    );
    assert!(target("merged/ice_text.model").is_file() && !target("merged/latest").exists());
    let config = read_config(&target("merged"));
    assert_eq!(config, source(&source_folder).config().unwrap());
    assert_eq!(
        (&config["num_layers"], &config["num_attention_heads"]),
        (&json!(3), &json!(4))
    );

    // A float type is for all matrices and no vector.
    let report = convert(
        &source_folder,
        &target("f32"),
        Some(WeightFormat::Dense(DType::F32)),
    );
    let matrices = shapes.iter().filter(|(_, shape)| shape.len() == 2).count();
    assert_eq!(report.unwrap().matrices, matrices);
    let read = Checkpoint::open(&target("f32")).unwrap();
    for (name, shape) in &shapes {
        let stored = read.tensor(name).unwrap();
        let wanted = if shape.len() == 2 {
            DType::F32
        } else {
            DType::F16
        };
        assert_eq!(*stored.dtype, StoredType::Known(wanted), "{name}");
        let rounded = tensor(name, shape)
            .into_iter()
            .map(|x| f16::from_f32(x).to_f32());
        assert_eq!(
            stored.to_f32().unwrap(),
            rounded.collect::<Vec<_>>(),
            "{name}"
        );
    }
    assert_eq!(read_config(&target("f32"))["torch_dtype"], "float32");

    let e = convert(&source_folder, &target("f32"), None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    let e = convert(
        &fixture("views.pt"),
        &target("q"),
        Some(WeightFormat::Int8Row),
    )
    .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(!target("q").exists());
}

/// The resident bytes of this process' map of `file`.
#[cfg(target_os = "linux")]
fn resident(file: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps
        .lines()
        .skip_while(|line| !line.contains(file.to_str().unwrap()));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
#[cfg(target_os = "linux")]
fn pages_that_were_read_are_given_back() {
    let dir = TempDir::new().unwrap();
    let shapes = vec![
        ("a".to_owned(), vec![1 << 20]),
        ("b".to_owned(), vec![1 << 20]),
    ];
    let path = dir.path().join("pytorch_model.bin");
    written::write_bin(&path, &shapes);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let sum = || checkpoint.tensor("a").unwrap().to_f32().unwrap();
    let before = sum();
    assert!(resident(&path) >= 4 << 20);
    checkpoint.release("a");
    assert!(resident(&path) < 1 << 20, "{}", resident(&path));
    assert_eq!(sum(), before);
    checkpoint.release("nothing of this name");
}
