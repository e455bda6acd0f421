//! From files to values: checkpoints are written, opened by the normal path, and damaged.

mod common;

use std::path::Path;

use common::{golden, golden_config, golden_shapes, le_bytes, tensor, write_checkpoint};
use glm::checkpoint::{Checkpoint, StoredType};
use hal::{DType, ErrorKind, WeightFormat};
use serde_json::json;

/// A safetensors file from its header and data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}

fn open_error(path: &Path, kind: ErrorKind) -> String {
    let e = Checkpoint::open(path).unwrap_err();
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.next().is_some(), "{e}");
    e.to_string()
}

#[test]
fn single_and_sharded_checkpoints_hold_the_same_tensors() {
    let case = golden("glm");
    let shapes = golden_shapes(&case);
    let dir = tempfile::tempdir().unwrap();
    for sharded in [false, true] {
        let folder = dir.path().join(format!("sharded-{sharded}"));
        write_checkpoint(&folder, &shapes, &golden_config(&case, "glm"), sharded);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        assert_eq!(checkpoint.names().len(), shapes.len());
        assert_eq!(checkpoint.folder(), Some(folder.as_path()));
        let mut total_bytes = 0;
        for (name, shape) in &shapes {
            let stored = checkpoint.tensor(name).unwrap();
            assert_eq!(*stored.dtype, StoredType::Known(DType::F32));
            assert_eq!(stored.shape, shape);
            assert_eq!(stored.to_f32().unwrap(), tensor(name, shape));
            total_bytes += stored.data.len() as u64;
        }
        assert_eq!(checkpoint.total_bytes(), total_bytes);
        let e = checkpoint.tensor("model.norm.wait").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound);
        assert!(e.to_string().contains("`model.norm.weight`"), "{e}");
    }
}

#[test]
fn matrices_join_row_under_row() {
    let case = golden("glm");
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &golden_shapes(&case), &json!({}), false);
    let checkpoint = Checkpoint::open(&dir.path().join("model.safetensors")).unwrap();
    let keys = ["q", "k", "v"].map(|p| format!("model.layers.0.self_attn.{p}_proj"));
    let joined = checkpoint
        .linear_rows(&keys.each_ref().map(String::as_str))
        .unwrap();
    assert_eq!((joined.rows, joined.cols), (64, 32));
    assert_eq!(joined.format, WeightFormat::Dense(DType::F32));
    let parts = keys.each_ref().map(|key| {
        let name = format!("{key}.weight");
        let shape = checkpoint.tensor(&name).unwrap().shape.to_vec();
        le_bytes(&tensor(&name, &shape))
    });
    assert_eq!(joined.data, parts.concat());

    let e = checkpoint.linear_rows(&[&keys[0], "model.layers.0.mlp.down_proj"]);
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        checkpoint.linear("model.norm").unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        checkpoint.linear_rows(&[]).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn types_that_we_do_not_compute_with_are_data() {
    let file = safetensors(
        r#"{"__metadata__":{"format":"pt","shape":"free text"},
            "ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},
            "w.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[8,12]}}"#,
        &[7; 12],
    );
    let checkpoint = Checkpoint::from_static(file.leak()).unwrap();
    let ids = checkpoint.tensor("ids").unwrap();
    assert_eq!(*ids.dtype, StoredType::Other("I64".to_owned()));
    assert_eq!(ids.data, [7; 8]);
    assert_eq!(ids.to_f32().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(
        checkpoint.linear("w").unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert!(checkpoint.folder().is_none());
}

#[test]
fn a_damaged_file_is_named_with_its_tensor() {
    let entry = |name: &str, from: usize, to: usize| {
        let shape = (to - from) / 4;
        format!(r#""{name}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
    };
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}"#;
    let good = safetensors(&two(entry("a", 0, 8), entry("b", 8, 16)), &[0; 16]);
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let of = |header: String| safetensors(&header, &[0; 16]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("begins with 8 bytes", vec![1, 2, 3]),
        ("header claims 18446744073709551615 bytes", lying),
        (
            "tensor `b` ends at byte 16 of the data, which has 13",
            good[..good.len() - 3].to_vec(),
        ),
        ("which has 17", [&good[..], &[0]].concat()),
        (
            "tensor `b` overlap",
            of(two(entry("a", 0, 8), entry("b", 4, 16))),
        ),
        (
            "tensor `b` leave a gap",
            of(two(entry("a", 0, 4), entry("b", 8, 16))),
        ),
        (
            "tensor `b` ends at byte 96",
            of(two(entry("a", 0, 8), entry("b", 8, 96))),
        ),
        (
            "`a` appears twice",
            of(two(entry("a", 0, 8), entry("a", 8, 16))),
        ),
        (
            "16 bytes for F32 [4294967296, 4294967296, 4]",
            of(huge.to_owned()),
        ),
        (
            "tensor `a`: unknown variant `F31`",
            of(r#"{"a":{"dtype":"F31"}}"#.to_owned()),
        ),
        (
            "tensor `a`: missing field",
            of(r#"{"a":{"dtype":"F32","shape":[1]}}"#.to_owned()),
        ),
        ("__metadata__", of(r#"{"__metadata__":3}"#.to_owned())),
        ("parse", of("[]".to_owned())),
        ("parse", of(r#"{"a":"#.to_owned() + &"[".repeat(10_000))),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for (wanted, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        let e = open_error(dir.path(), ErrorKind::Corrupt);
        assert!(
            e.contains(wanted) && e.contains("model.safetensors"),
            "{wanted}: {e}"
        );
    }
    std::fs::write(&path, good).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().total_bytes(), 16);
}

#[test]
fn an_index_and_its_shards_agree_or_are_refused() {
    let case = golden("glm");
    let shapes = golden_shapes(&case);
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let shard = "model-00002-of-00002.safetensors";
    let write_index =
        |map: &str| std::fs::write(&index, format!(r#"{{"weight_map":{map}}}"#)).unwrap();

    write_checkpoint(dir.path(), &shapes, &json!({}), true);
    write_index(&format!(r#"{{"absent.weight":"{shard}"}}"#));
    let e = open_error(dir.path(), ErrorKind::Corrupt);
    assert!(e.contains("absent.weight") && e.contains(shard), "{e}");

    for outside in [
        "/etc/a.safetensors",
        "../a.safetensors",
        "b\\a.safetensors",
        "a.bin",
        "",
    ] {
        write_index(&json!({"w": outside}).to_string());
        let e = open_error(dir.path(), ErrorKind::Corrupt);
        assert!(e.contains("plain name") && e.contains("`w`"), "{e}");
    }
    write_index(&format!(r#"{{"w":"{shard}","w":"{shard}"}}"#));
    assert!(open_error(dir.path(), ErrorKind::Corrupt).contains("`w` appears twice"));
    write_index("{}");
    assert!(open_error(dir.path(), ErrorKind::Corrupt).contains("empty"));
    std::fs::write(&index, "{}").unwrap();
    assert!(open_error(dir.path(), ErrorKind::Corrupt).contains("weight_map"));

    write_checkpoint(dir.path(), &shapes, &json!({}), true);
    std::fs::copy(dir.path().join(shard), dir.path().join("copy.safetensors")).unwrap();
    write_index(
        &json!({"lm_head.weight": shard, "model.norm.weight": "copy.safetensors"}).to_string(),
    );
    open_error(dir.path(), ErrorKind::Corrupt);

    write_checkpoint(dir.path(), &shapes, &json!({}), true);
    std::fs::remove_file(dir.path().join(shard)).unwrap();
    let e = open_error(dir.path(), ErrorKind::NotFound);
    assert!(e.contains(shard) && e.contains("not there"), "{e}");
}

#[test]
fn a_folder_without_safetensors_says_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    open_error(dir.path(), ErrorKind::NotFound);
    open_error(&dir.path().join("nowhere"), ErrorKind::NotFound);
    std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
    open_error(dir.path(), ErrorKind::Corrupt);
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("pytorch_model-00001-of-00007.bin"), "PK").unwrap();
    let e = open_error(dir.path(), ErrorKind::Unsupported);
    assert!(e.contains("pytorch_model-00001-of-00007.bin"), "{e}");
}
