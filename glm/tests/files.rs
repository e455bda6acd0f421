//! From files to values: checkpoints are written, opened by the normal path, and damaged.

use std::borrow::Cow;
use std::path::Path;

use crate::common::{
    Shapes, golden, golden_config, golden_shapes, le_bytes, tensor, torch, write_checkpoint,
};
use glm::architecture::Architecture;
use glm::checkpoint::{Checkpoint, StoredType, check_index};
use glm::config::GenerationConfig;
use glm::convert::{convert, convert_in_shards};
use glm::inspect::inspect;
use glm::source::ModelSource;
use glm::tokenizer::Tokenizer;
use hal::{DType, ErrorKind, WeightFormat};
use ops::HostWeight;
use serde_json::{Value, json};

/// A safetensors file from its header and data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}

const F32: WeightFormat = WeightFormat::Dense(DType::F32);

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
            assert!(matches!(stored.data().unwrap(), Cow::Borrowed(_)));
            total_bytes += stored.bytes() as u64;
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
        .linear_rows(&keys.each_ref().map(String::as_str), 32, F32)
        .unwrap();
    assert_eq!((joined.rows, joined.cols), (64, 32));
    assert_eq!(joined.format, WeightFormat::Dense(DType::F32));
    let parts = keys.each_ref().map(|key| {
        let name = format!("{key}.weight");
        let shape = checkpoint.tensor(&name).unwrap().shape.to_vec();
        le_bytes(&tensor(&name, &shape))
    });
    assert_eq!(joined.data, parts.concat());

    let e = checkpoint.linear_rows(&[&keys[0], "model.layers.0.mlp.down_proj"], 32, F32);
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        checkpoint.linear("model.norm", 32).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        checkpoint.linear_rows(&[], 32, F32).unwrap_err().kind(),
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
    assert_eq!(*ids.data().unwrap(), [7; 8]);
    assert_eq!(ids.to_f32().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(
        checkpoint.linear("w", 2).unwrap_err().kind(),
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
    for name in [
        "a-00001-of-00002.bin",
        "a-00002-of-00002.bin",
        "training_args.bin",
    ] {
        std::fs::write(dir.path().join(name), "PK").unwrap();
    }
    let e = open_error(dir.path(), ErrorKind::NotFound);
    assert!(
        e.contains("2 files from a-00001") && e.contains("index"),
        "{e}"
    );
}

/// The tensors of a small `glm` whose widths fit every format.
fn small() -> (Vec<(String, Vec<usize>)>, Value) {
    let case = golden("glm");
    let mut config = golden_config(&case, "glm");
    config["intermediate_size"] = json!(64);
    let mut shapes = golden_shapes(&case);
    for (name, shape) in &mut shapes {
        if name.contains("gate_up_proj") {
            shape[0] = 128;
        } else if name.contains("down_proj") {
            shape[1] = 64;
        }
    }
    (shapes, config)
}

#[test]
fn quantised_checkpoints_read_back_as_they_were_computed() {
    let (shapes, config) = small();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write_checkpoint(&source, &shapes, &config, true);
    std::fs::write(source.join("tokenizer_config.json"), "{}").unwrap();
    std::fs::write(source.join("notes.bin"), "x").unwrap();
    let original = Checkpoint::open(&source).unwrap();
    let architecture = Architecture::load(&source).unwrap();
    let formats = [
        (WeightFormat::Int8Row, 8, Value::Null, 1 << 30),
        (WeightFormat::Int8Group(32), 8, json!(32), 7_000),
        (WeightFormat::Int4Row, 4, Value::Null, 5_000),
        (WeightFormat::Int4Group(32), 4, json!(32), 1),
    ];
    for (format, bits, group, shard_bytes) in formats {
        let target = dir.path().join(format.to_string());
        let report = convert_in_shards(&source, &target, Some(format), shard_bytes).unwrap();
        assert_eq!((report.matrices, report.copied), (2 * 6, shapes.len() - 12));
        assert_eq!(report.shards == 1, shard_bytes == 1 << 30);
        let single = target.join("model.safetensors").is_file();
        let index = target.join("model.safetensors.index.json").is_file();
        assert_eq!((single, index), (report.shards == 1, report.shards > 1));

        let read = Checkpoint::open(&target).unwrap();
        assert_eq!(read.total_bytes(), report.bytes);
        for i in 0..architecture.layers {
            for (key, [_, cols]) in architecture.matrices(i) {
                let dense = original.linear(&key, cols).unwrap();
                let wanted = dense.convert(format).unwrap();
                let weight = read.linear(&key, cols).unwrap();
                assert_eq!(
                    (weight.format, weight.rows, weight.cols),
                    (format, wanted.rows, wanted.cols)
                );
                assert_eq!(
                    (&weight.data, &weight.scales),
                    (&wanted.data, &wanted.scales)
                );
            }
            let qkv = ["q", "k", "v"].map(|p| format!("model.layers.{i}.self_attn.{p}_proj"));
            let joined = read
                .linear_rows(
                    &qkv.each_ref().map(String::as_str),
                    architecture.hidden,
                    format,
                )
                .unwrap();
            assert_eq!(
                (joined.format, joined.rows),
                (format, architecture.qkv_rows())
            );
        }
        for name in [
            "model.embed_tokens.weight",
            "lm_head.weight",
            "model.norm.weight",
        ] {
            assert_eq!(
                read.tensor(name).unwrap().data().unwrap(),
                original.tensor(name).unwrap().data().unwrap()
            );
        }
        let config: Value =
            serde_json::from_slice(&std::fs::read(target.join("config.json")).unwrap()).unwrap();
        let q = &config["quantization_config"];
        assert_eq!(
            (&q["quant_method"], &q["bits"], &q["group_size"]),
            (&json!("glm"), &json!(bits), &group)
        );
        assert_eq!(Architecture::from_config(&config).unwrap(), architecture);
        assert!(target.join("tokenizer_config.json").is_file());
        assert!(!target.join("notes.bin").exists());

        let inspection = inspect(&ModelSource::Folder(target.clone())).unwrap();
        assert_eq!(inspection.weights, format.to_string());
        assert!(inspection.missing.is_empty() && inspection.unexpected.is_empty());
        assert!(
            inspection.misshapen.is_empty(),
            "{:?}",
            inspection.misshapen
        );

        let again = convert(&target, &dir.path().join("again"), Some(format)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Unsupported, "{again}");
        assert!(!dir.path().join("again").exists());
    }
}

#[test]
fn quantising_leaves_what_was_there_alone() {
    let (shapes, config) = small();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    write_checkpoint(&source, &shapes, &config, false);
    let before = std::fs::read(source.join("model.safetensors")).unwrap();
    let error = |target: &Path, format| convert(&source, target, Some(format)).unwrap_err();
    let kind = |target: &Path, format| error(target, format).kind();
    use ErrorKind::{InvalidArgument, NotFound};
    assert_eq!(kind(&source, WeightFormat::Int8Row), InvalidArgument);
    assert_eq!(
        std::fs::read(source.join("model.safetensors")).unwrap(),
        before
    );
    let target = dir.path().join("target");
    assert_eq!(kind(&target, WeightFormat::Int4Group(128)), InvalidArgument);

    // A weight that is not a number: found while writing, and nothing of it stays.
    let mut damaged = before;
    let name = "model.layers.1.mlp.down_proj.weight";
    let stored = Checkpoint::from_bytes(damaged.clone()).unwrap();
    let tensor = stored.tensor(name).unwrap().data().unwrap().into_owned();
    let at = damaged
        .windows(tensor.len())
        .position(|part| part == tensor);
    damaged[at.unwrap()..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(source.join("model.safetensors"), &damaged).unwrap();
    let e = error(&target, WeightFormat::Int8Row);
    assert_eq!(e.kind(), InvalidArgument, "{name}: {e}");
    assert!(
        e.to_string().contains(name.trim_end_matches(".weight")),
        "{e}"
    );
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);

    std::fs::remove_file(source.join("model.safetensors")).unwrap();
    assert_eq!(kind(&target, WeightFormat::Int8Row), NotFound);
}

#[test]
fn the_official_quantiser_computes_the_same() {
    let case = golden("quant");
    let values = tensor("quant.weight", &[6, 16]);
    let f16: Vec<u8> = values
        .iter()
        .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
        .collect();
    let weight = HostWeight::new(WeightFormat::Dense(DType::F16), 6, 16, f16, Vec::new()).unwrap();
    let numbers = |v: &Value| -> Vec<f64> {
        let rows = v.as_array().unwrap().iter();
        rows.flat_map(|row| match row.as_array() {
            Some(row) => row.iter().map(|x| x.as_f64().unwrap()).collect(),
            None => vec![row.as_f64().unwrap()],
        })
        .collect()
    };
    let f64s = |bytes: &[u8]| -> Vec<f64> { bytes.iter().map(|&b| f64::from(b)).collect() };
    for (format, name) in [
        (WeightFormat::Int8Row, "int8"),
        (WeightFormat::Int4Row, "int4"),
    ] {
        let quantised = weight.convert(format).unwrap();
        let scales: Vec<f32> = (0..6).map(|r| quantised.scale(r, 0)).collect();
        // Through f32: a parser of decimal numbers may be off by a unit of f64.
        let wanted: Vec<f32> = numbers(&case[name]["scale"])
            .iter()
            .map(|&s| s as f32)
            .collect();
        assert_eq!(scales, wanted, "{name}");
        if name == "int4" {
            assert_eq!(f64s(&quantised.data), numbers(&case[name]["packed_u8"]));
        } else {
            let signed: Vec<f64> = quantised.data.iter().map(|&b| f64::from(b as i8)).collect();
            assert_eq!(signed, numbers(&case[name]["q"]));
        }
    }
}

#[test]
fn inspection_finds_what_does_not_fit() {
    let case = golden("glm4");
    let (mut shapes, config) = (golden_shapes(&case), golden_config(&case, "glm4"));
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &shapes, &config, false);
    let whole = inspect(&ModelSource::Folder(dir.path().into())).unwrap();
    let elements = shapes
        .iter()
        .map(|(_, s)| s.iter().product::<usize>() as u64);
    assert_eq!(whole.parameters, elements.sum::<u64>());
    assert_eq!(whole.stored_bytes, 4 * whole.parameters);
    assert_eq!(
        (whole.weights.as_str(), whole.tensors.len()),
        ("f32", shapes.len())
    );
    assert!(whole.missing.is_empty() && whole.unexpected.is_empty() && whole.misshapen.is_empty());
    assert_eq!(whole.kv_bytes_per_token, 2 * 2 * 2 * 8 * 2);
    assert_eq!(whole.sizes.f16, 2 * whole.parameters);
    assert!(whole.sizes.int4 < whole.sizes.int8 && whole.sizes.int8 < whole.sizes.f16);
    assert!(whole.tokenizer.is_none() && whole.problems.iter().any(|p| p.contains("tokenizer")));

    shapes.retain(|(name, _)| name != "model.layers.1.post_mlp_layernorm.weight");
    shapes.push((
        "transformer.prefix_encoder.embedding.weight".to_owned(),
        vec![2, 2],
    ));
    for (name, shape) in &mut shapes {
        if name == "model.layers.0.mlp.down_proj.weight" {
            shape[1] += 1;
        }
    }
    write_checkpoint(dir.path(), &shapes, &config, false);
    let wrong = inspect(&ModelSource::Folder(dir.path().into())).unwrap();
    assert_eq!(wrong.missing, ["model.layers.1.post_mlp_layernorm.weight"]);
    assert_eq!(
        wrong.unexpected,
        ["transformer.prefix_encoder.embedding.weight"]
    );
    assert_eq!(
        wrong.misshapen,
        ["model.layers.0.mlp.down_proj.weight: [32, 49], not [32, 48]"]
    );
    let json = serde_json::to_value(&wrong).unwrap();
    assert_eq!(json["architecture"]["layers"], 2);
}

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    /// `seed` with one to four parts changed: bits, bytes, numbers, pieces removed or repeated.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        const NUMBERS: [&str; 9] = [
            "0",
            "-1",
            "1e999",
            "18446744073709551615",
            "4294967296",
            "null",
            "[]",
            "{}",
            "0.5",
        ];
        let mut out = seed.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(out.len());
            let end = (at + self.below(24)).min(out.len());
            match self.below(6) {
                0 if !out.is_empty() => out[at] ^= 1 << self.below(8),
                1 => out.insert(at, self.below(256) as u8),
                2 => drop(out.drain(at..end)),
                3 => {
                    let piece = out[at..end].to_vec();
                    out.splice(at..at, piece);
                }
                4 => out.truncate(at),
                _ => {
                    let digits = |b: &u8| b.is_ascii_digit();
                    let start = out[at..].iter().position(digits).map_or(at, |n| at + n);
                    let stop = out[start..].iter().take_while(|&b| digits(b)).count() + start;
                    let number = NUMBERS[self.below(NUMBERS.len())];
                    out.splice(start..stop, number.bytes());
                }
            }
        }
        out
    }
}

/// Runs `parse` on changed copies of `seed`; both outcomes must occur, or the test tests nothing.
fn survives(seed: &[u8], rounds: usize, mut parse: impl FnMut(Vec<u8>) -> bool) {
    assert!(parse(seed.to_vec()), "the seed itself must be accepted");
    let mut random = Random(seed.len() as u64);
    let accepted = (0..rounds).filter(|_| parse(random.mutate(seed))).count();
    assert!(
        0 < accepted && accepted < rounds,
        "{accepted} of {rounds} accepted"
    );
}

#[test]
fn damaged_headers_are_errors_and_what_is_accepted_is_sound() {
    let (shapes, config) = small();
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &shapes[..4].to_vec(), &config, false);
    let file = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    survives(&file[..header], 30_000, |mut changed| {
        // Mutations of the header alone: its length is put right in most of them.
        if changed.len() > 8 && changed[8] == b'{' {
            let length = changed.len() as u64 - 8;
            changed[..8].copy_from_slice(&length.to_le_bytes());
        }
        changed.extend(&file[header..]);
        let Ok(checkpoint) = Checkpoint::from_bytes(changed.clone()) else {
            return false;
        };
        let official = safetensors::SafeTensors::deserialize(&changed);
        let official = official.expect("we accept no more than the official reader");
        assert_eq!(checkpoint.names().len(), official.len());
        for name in checkpoint.names() {
            let (ours, theirs) = (
                checkpoint.tensor(name).unwrap(),
                official.tensor(name).unwrap(),
            );
            assert_eq!(ours.shape, theirs.shape());
            assert_eq!(*ours.data().unwrap(), *theirs.data());
            let _ = checkpoint.linear(name.trim_end_matches(".weight"), 8);
        }
        true
    });
}

#[test]
fn damaged_files_of_torch_are_errors_and_what_is_accepted_is_sound() {
    let shapes = [("a.weight", vec![4, 6]), ("b", vec![3])];
    let shapes: Shapes = shapes.map(|(name, shape)| (name.to_owned(), shape)).into();
    let mut tensors = torch::tensors(&shapes, DType::F16);
    tensors[0].shape = vec![6, 4];
    tensors[0].stride = Some(vec![1, 6]);
    let by_us = torch::deepspeed_file(&tensors);
    let by_torch = include_bytes!("vectors/torch/views.pt");
    for (seed, rounds) in [(&by_us[..], 20_000), (by_torch, 5_000)] {
        survives(seed, rounds, |changed| {
            let Ok(checkpoint) = Checkpoint::from_bytes(changed) else {
                return false;
            };
            for name in checkpoint.names() {
                let stored = checkpoint.tensor(name).unwrap();
                assert_eq!(stored.data().unwrap().len(), stored.bytes());
                let _ = checkpoint.linear(name.trim_end_matches(".weight"), 6);
            }
            let _ = checkpoint.implied_config();
            true
        });
    }
}

#[test]
fn damaged_texts_are_errors() {
    let chatglm = golden_config(&golden("chatglm3"), "chatglm").to_string();
    let mut glm = golden_config(&golden("glm4"), "glm4");
    glm["rope_scaling"] = json!({"type": "yarn", "factor": 4.0});
    for config in [chatglm, glm.to_string()] {
        survives(config.as_bytes(), 30_000, |json| {
            let Ok(value) = serde_json::from_slice(&json) else {
                return false;
            };
            let _ = GenerationConfig::from_configs(&value, Some(&value));
            let architecture = Architecture::from_config(&value);
            // Every product of an accepted architecture is a number: overflow would panic here.
            architecture
                .map(|a| (a.parameters(), a.matrices(a.layers - 1)))
                .is_ok()
        });
    }
    let index = json!({"metadata": {"total_size": 9}, "weight_map": {
        "a.weight": "model-1.safetensors", "b": "model-2.safetensors"
    }});
    survives(index.to_string().as_bytes(), 30_000, |json| {
        let Ok(files) = check_index(&json) else {
            return false;
        };
        files
            .iter()
            .all(|file| Path::new(file).file_name() == Some(file.as_ref()))
    });
}

#[test]
fn damaged_tokenizers_are_errors() {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": 6, "content": "<|user|>", "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false
        }],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\p{L}+"},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
             "use_regex": false}
        ]},
        "post_processor": null, "decoder": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        },
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4, "Ġ": 5},
                  "merges": ["a b", "ab c"]}
    });
    survives(json.to_string().as_bytes(), 10_000, |json| {
        let Ok(tokenizer) = Tokenizer::from_bytes(&json) else {
            return false;
        };
        for text in ["abc ab\n", "<|user|>你", ""] {
            if let Ok(ids) = tokenizer.encode(text) {
                let _ = tokenizer.decode(&ids, true);
            }
            let _ = tokenizer.encode_with_specials(text);
        }
        true
    });
}
