//! Packed weights that are kept: the same logits as without, taken from the files at the next start, and made again when
//! anything that they were made of is another.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common::watched::watched;
use backend_cpu::Activations;
use glm::demo;
use glm::model::{Chunk, Model, Options, Rows};
use glm::source::ModelSource;
use hal::{ErrorKind, Result, WeightFormat};
use ops::Context;
use tempfile::TempDir;

const INT4: Option<WeightFormat> = Some(WeightFormat::Int4Group(32));

fn cpu(activations: Activations) -> Context {
    let options = backend_cpu::Options {
        threads: Some(2),
        activations,
        ..backend_cpu::Options::default()
    };
    Context::new(backend_cpu::open(&options).unwrap())
}

/// The demo model in a folder, and a folder for what is kept of it.
struct Folders {
    /// Removes both.
    _root: TempDir,
    model: PathBuf,
    kept: PathBuf,
}

impl Folders {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (model, kept) = (root.path().join("model"), root.path().join("a/b/kept"));
        std::fs::create_dir(&model).unwrap();
        let ModelSource::Embedded(files) = demo::folder_files() else {
            panic!("the demo model is in the executable");
        };
        for (name, bytes) in files {
            std::fs::write(model.join(name), bytes).unwrap();
        }
        Self {
            _root: root,
            model,
            kept,
        }
    }

    /// Logits after a prompt, by weights in `format`, kept.
    fn logits(&self, context: &Context, format: Option<WeightFormat>) -> Vec<u32> {
        let source = ModelSource::Folder(self.model.clone());
        logits(&source, context, format, Some(&self.kept)).unwrap()
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let entries = std::fs::read_dir(&self.kept).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn written(&self) -> Vec<std::time::SystemTime> {
        let written = |path: &PathBuf| path.metadata().unwrap().modified().unwrap();
        self.files().iter().map(written).collect()
    }
}

fn logits(
    source: &ModelSource,
    context: &Context,
    format: Option<WeightFormat>,
    kept: Option<&Path>,
) -> Result<Vec<u32>> {
    let mut checkpoint = source.checkpoint()?;
    if let Some(folder) = kept {
        checkpoint = checkpoint.keep_packed(folder.to_path_buf());
    }
    let options = Options {
        weights: format,
        context: Some(64),
        ..Options::default()
    };
    let architecture = source.architecture()?;
    let mut model = Model::load(context, &architecture, &checkpoint, &options, |_, _| {})?;
    let mut sequence = model.sequence();
    let chunk = Chunk {
        sequence: &mut sequence,
        ids: &[5, 6, 7, 8],
        positions: None,
    };
    model.forward(&mut [chunk], Rows::Last)?;
    let logits = model.read_logits()?;
    Ok(logits.into_iter().map(f32::to_bits).collect())
}

/// Changes a file by way of another of its name, as whoever replaces it must.
fn replace(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn kept_weights_are_the_same_weights() {
    let folders = Folders::new();
    let mut files = 0;
    for activations in [Activations::Float, Activations::Int8] {
        let context = cpu(activations);
        // Those that the columns of the demo model allow.
        let formats = WeightFormat::ALL.into_iter();
        let formats = formats.filter(|f| 32_usize.is_multiple_of(f.cols_multiple()));
        for format in formats.map(Some).chain([None]) {
            let plain = logits(&demo::folder_files(), &context, format, None).unwrap();
            assert_eq!(folders.logits(&context, format), plain, "{format:?}, made");
            let (after, written) = (folders.files().len(), folders.written());
            assert_eq!(folders.logits(&context, format), plain, "{format:?}, kept");
            assert_eq!(
                folders.written(),
                written,
                "{format:?}: nothing was written"
            );
            assert!(after >= files, "{format:?}");
            files = after;
        }
    }
    let left: Vec<_> = folders.files().into_iter().collect();
    let is_weight = |path: &PathBuf| path.extension().is_some_and(|e| e == "weight");
    assert!(left.iter().all(is_weight), "{left:?}");
}

#[test]
fn weights_that_are_kept_need_memory_one_at_a_time() {
    let folders = Folders::new();
    let source = ModelSource::Folder(folders.model.clone());
    let plain = logits(&source, &cpu(Activations::Float), None, None).unwrap();
    let (architecture, checkpoint) = (source.architecture().unwrap(), source.checkpoint().unwrap());
    let options = Options {
        context: Some(64),
        ..Options::default()
    };
    let (context, _) = watched(usize::MAX);
    let model = Model::load(&context, &architecture, &checkpoint, &options, |_, _| {}).unwrap();
    let footprint = model.footprint();
    let (context, _) = watched(footprint.total() - footprint.weights / 2);
    let e = logits(&source, &context, None, None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfMemory);
    for _ in ["made", "kept"] {
        assert_eq!(folders.logits(&context, None), plain);
    }
    let (context, _) = watched(footprint.total() - footprint.weights);
    let e = logits(&source, &context, None, Some(&folders.kept)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn what_is_kept_is_what_is_read() {
    let (folders, context) = (Folders::new(), cpu(Activations::Float));
    let plain = folders.logits(&context, INT4);
    // Nobody may do this; it shows where the weights come from.
    for file in folders.files() {
        replace(&file, |bytes| bytes[4096..].fill(0));
    }
    assert_ne!(folders.logits(&context, INT4), plain);
}

#[test]
fn damaged_files_are_made_again() {
    type Damage = fn(&mut Vec<u8>);
    let (folders, context) = (Folders::new(), cpu(Activations::Float));
    let plain = folders.logits(&context, INT4);
    let damages: [(&str, Damage); 6] = [
        ("empty", Vec::clear),
        ("shorter than a header", |bytes| bytes.truncate(100)),
        ("a header alone", |bytes| bytes.truncate(4096)),
        ("cut", |bytes| bytes.truncate(bytes.len() - 1)),
        ("longer", |bytes| bytes.push(0)),
        ("of another matrix", |bytes| bytes[30] ^= 1),
    ];
    for (damage, apply) in damages {
        let whole: Vec<_> = folders.files().iter().map(std::fs::read).collect();
        for file in folders.files() {
            replace(&file, apply);
        }
        assert_eq!(folders.logits(&context, INT4), plain, "{damage}");
        let again = folders.files();
        for (file, whole) in again.iter().zip(whole) {
            assert_eq!(std::fs::read(file).unwrap(), whole.unwrap(), "{damage}");
        }
    }
}

#[test]
fn another_checkpoint_has_files_of_its_own() {
    let (folders, context) = (Folders::new(), cpu(Activations::Float));
    let plain = folders.logits(&context, INT4);
    let before = folders.files();
    // The same size and the same tensors, one with other values, and the time of the old file.
    let weights = folders.model.join("model.safetensors");
    let written = weights.metadata().unwrap().modified().unwrap();
    let last = std::fs::read(&weights).unwrap().len() - 1;
    replace(&weights, |bytes| {
        // Far from the end of the header: elements of some matrix.
        bytes[last / 2..][..512].fill(0);
    });
    let file = std::fs::File::options().write(true).open(&weights).unwrap();
    file.set_modified(written).unwrap();
    drop(file);
    let changed = folders.logits(&context, INT4);
    assert_ne!(changed, plain);
    let source = ModelSource::Folder(folders.model.clone());
    assert_eq!(changed, logits(&source, &context, INT4, None).unwrap());
    assert_eq!(folders.files().len(), 2 * before.len());
}

#[test]
fn loading_at_once_gives_each_the_whole() {
    let folders = Folders::new();
    let plain = logits(&demo::folder_files(), &cpu(Activations::Float), INT4, None).unwrap();
    std::thread::scope(|scope| {
        let load = || assert_eq!(folders.logits(&cpu(Activations::Float), INT4), plain);
        for _ in 0..4 {
            scope.spawn(load);
        }
    });
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let (folders, context) = (Folders::new(), cpu(Activations::Float));
    let e = logits(&demo::folder_files(), &context, None, Some(&folders.kept)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("not in files"), "{e}");

    let source = ModelSource::Folder(folders.model.clone());
    let reference = Context::new(conformance::reference_device::open());
    let e = logits(&source, &reference, None, Some(&folders.kept)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.next().unwrap().contains("--keep-packed"), "{e}");
    assert_eq!(folders.files().len(), 0, "the probe is gone");

    // A file where the folder should be.
    let e = logits(
        &source,
        &context,
        None,
        Some(&folders.model.join("config.json")),
    );
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Io);
}
