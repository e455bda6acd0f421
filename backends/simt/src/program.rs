//! Compiled programs: one per text and set of definitions, kept in memory, and on disk where the driver gives binaries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hal::{Result, kept};

use crate::driver::{Compiled, SimtDriver, Source};

type Defines = Vec<(&'static str, String)>;
/// A program, once it is compiled.
type Slot<D> = Arc<Mutex<Option<Arc<<D as SimtDriver>::Program>>>>;
type Table<D> = HashMap<(&'static str, Defines), Slot<D>>;

/// Told of each program that was compiled rather than loaded: the device's spec, how long that took, and the folder
/// where it is kept, if it is.
pub type OnCompile = fn(spec: &str, took: Duration, kept: Option<&Path>);

/// The programs of one device.
pub(crate) struct Programs<D: SimtDriver> {
    table: Mutex<Table<D>>,
    /// Where binaries are kept.
    folder: Option<PathBuf>,
    on_compile: Option<OnCompile>,
}

impl<D: SimtDriver> std::fmt::Debug for Programs<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{} programs", table.len())
    }
}

impl<D: SimtDriver> Programs<D> {
    /// None yet; binaries are kept in `folder`.
    pub(crate) fn new(folder: Option<PathBuf>, on_compile: Option<OnCompile>) -> Self {
        Self {
            table: Mutex::default(),
            folder,
            on_compile,
        }
    }

    /// The program of `source` with `defines`.
    ///
    /// # Errors
    /// `CompileFailed` with the compiler's log.
    pub(crate) fn program(
        &self,
        driver: &D,
        source: &Source,
        defines: Defines,
    ) -> Result<Arc<D::Program>> {
        let slot = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(table.entry((source.name, defines.clone())).or_default())
        };
        // Held while compiling: two plans of one program compile it once, and other programs are compiled beside it.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*slot {
            return Ok(Arc::clone(program));
        }
        let place = self.place(driver, source, &defines);
        let binary = place.as_deref().and_then(kept::read);
        let start = Instant::now();
        let Compiled { program, fresh } = driver.compile(source, &defines, binary.as_deref())?;
        if fresh {
            let took = start.elapsed();
            // Also in the place of a binary that the runtime refused. A cache that cannot be written is no reason to
            // fail.
            let kept = place.filter(|place| {
                let binary = driver.binary(&program);
                binary.is_some_and(|binary| kept::write(place, &binary).is_ok())
            });
            if let Some(tell) = self.on_compile {
                let folder = kept.as_deref().and_then(Path::parent);
                tell(&driver.facts().spec, took, folder);
            }
        }
        let program = Arc::new(program);
        *slot = Some(Arc::clone(&program));
        Ok(program)
    }

    /// Where the binary of a program is kept: named by everything that it depends on.
    fn place(&self, driver: &D, source: &Source, defines: &[(&str, String)]) -> Option<PathBuf> {
        let fingerprint = driver.facts().fingerprint.as_ref()?;
        let defines: String = defines
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let digest = kept::name([fingerprint.as_str(), &source.text(), &defines]);
        let name = format!("{}-{digest}", source.name);
        Some(self.folder.as_ref()?.join(name))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hal::{DType, Error, Numerics};

    use super::*;
    use crate::driver::{Argument, Facts, Limits};

    /// What a binary begins with that does not load, though it is whole.
    const REFUSED: &[u8] = b"of another driver";

    /// Compiles anything to its definitions, and counts.
    #[derive(Debug)]
    pub(crate) struct Paper {
        facts: Facts,
        limits: Limits,
        compiled: AtomicUsize,
        loaded: AtomicUsize,
    }

    impl Paper {
        pub(crate) fn new(fingerprint: &str) -> Self {
            Self {
                facts: Facts {
                    spec: "paper".into(),
                    name: "paper".into(),
                    detail: String::new(),
                    fingerprint: Some(fingerprint.into()),
                    native_floats: vec![DType::F32],
                    numerics: Numerics::exact(),
                },
                limits: Limits {
                    max_group: 64,
                    local_bytes: 1 << 15,
                    max_alloc_bytes: 1,
                    memory_bytes: 1,
                    wave: 1,
                    parallelism: 1,
                    wide_items: false,
                },
                compiled: AtomicUsize::new(0),
                loaded: AtomicUsize::new(0),
            }
        }

        fn counts(&self) -> (usize, usize) {
            let count = |n: &AtomicUsize| n.load(Ordering::SeqCst);
            (count(&self.compiled), count(&self.loaded))
        }
    }

    fn none<T>() -> Result<T> {
        Err(Error::unsupported("use paper", "it only compiles"))
    }

    impl SimtDriver for Paper {
        type Memory = ();
        type Program = Vec<u8>;
        type Kernel = ();
        type Queue = ();
        type Mark = ();

        fn facts(&self) -> &Facts {
            &self.facts
        }
        fn limits(&self) -> &Limits {
            &self.limits
        }
        fn alloc(&self, _: usize) -> Result<()> {
            none()
        }
        fn compile(
            &self,
            source: &Source,
            defines: &[(&str, String)],
            binary: Option<&[u8]>,
        ) -> Result<Compiled<Vec<u8>>> {
            if let Some(binary) = binary
                && !binary.starts_with(REFUSED)
            {
                self.loaded.fetch_add(1, Ordering::SeqCst);
                let program = binary.to_vec();
                let fresh = false;
                return Ok(Compiled { program, fresh });
            }
            self.compiled.fetch_add(1, Ordering::SeqCst);
            let program = format!("{} {defines:?}", source.name).into_bytes();
            let fresh = true;
            Ok(Compiled { program, fresh })
        }
        fn binary(&self, program: &Vec<u8>) -> Option<Vec<u8>> {
            Some(program.clone())
        }
        fn kernel(&self, _: &Vec<u8>, _: &str, _: usize) -> Result<()> {
            none()
        }
        fn queue(&self) -> Result<()> {
            none()
        }
        fn upload(&self, (): &mut (), (): &(), _: usize, _: &[u8]) -> Result<()> {
            none()
        }
        fn download(&self, (): &mut (), _: &mut [u8], (): &(), _: usize) -> Result<()> {
            none()
        }
        unsafe fn launch(
            &self,
            (): &mut (),
            (): &(),
            _: [usize; 3],
            _: usize,
            _: &[Argument<'_, ()>],
        ) -> Result<()> {
            none()
        }
        fn record(&self, (): &mut ()) -> Result<()> {
            none()
        }
        fn wait(&self, (): &mut (), (): &()) -> Result<()> {
            none()
        }
        fn synchronize(&self, (): &mut ()) -> Result<()> {
            none()
        }
        fn finish(&self, (): &()) -> Result<()> {
            none()
        }
        fn elapsed(&self, (): &(), (): &()) -> Result<Option<Duration>> {
            none()
        }
    }

    const SOURCE: Source = Source {
        name: "copy",
        parts: &["kernel"],
        begins_early: false,
    };

    fn tile(n: usize) -> Defines {
        vec![("TILE", n.to_string())]
    }

    /// A folder of its own for each test, removed at the end.
    pub(crate) struct Folder(pub(crate) PathBuf);

    impl Folder {
        pub(crate) fn new(test: &str) -> Self {
            let name = format!("glm-programs-{test}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn programs(&self) -> Programs<Paper> {
            Programs::new(Some(self.0.clone()), None)
        }

        fn files(&self) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_program_is_compiled_once_and_kept() {
        let folder = Folder::new("once");
        let (paper, programs) = (Paper::new("a"), folder.programs());
        for n in [1, 2, 1, 2] {
            programs.program(&paper, &SOURCE, tile(n)).unwrap();
        }
        assert_eq!((paper.counts(), folder.files().len()), ((2, 0), 2));
        // Another process, the same driver; and a newer one.
        for (fingerprint, counts) in [("a", (0, 1)), ("b", (1, 0))] {
            let paper = Paper::new(fingerprint);
            let programs = folder.programs();
            let program = programs.program(&paper, &SOURCE, tile(1)).unwrap();
            assert_eq!(*program, b"copy [(\"TILE\", \"1\")]");
            assert_eq!(paper.counts(), counts, "{fingerprint}");
        }
    }

    #[test]
    fn a_damaged_file_is_compiled_again() {
        let folder = Folder::new("damaged");
        let paper = Paper::new("a");
        folder.programs().program(&paper, &SOURCE, tile(1)).unwrap();
        let file = folder.files().remove(0);
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [flipped, whole[..whole.len() - 1].to_vec(), Vec::new()] {
            std::fs::write(&file, damaged).unwrap();
            let paper = Paper::new("a");
            folder.programs().program(&paper, &SOURCE, tile(1)).unwrap();
            assert_eq!(paper.counts(), (1, 0));
            assert_eq!(std::fs::read(&file).unwrap(), whole, "and kept again");
        }
    }

    #[test]
    fn a_binary_that_the_driver_refuses_is_replaced() {
        let folder = Folder::new("refused");
        let paper = Paper::new("a");
        folder.programs().program(&paper, &SOURCE, tile(1)).unwrap();
        let file = folder.files().remove(0);
        let good = std::fs::read(&file).unwrap();
        kept::write(&file, REFUSED).unwrap();
        for counts in [(1, 0), (0, 1)] {
            let paper = Paper::new("a");
            folder.programs().program(&paper, &SOURCE, tile(1)).unwrap();
            assert_eq!(paper.counts(), counts);
            assert_eq!(std::fs::read(&file).unwrap(), good);
        }
    }

    #[test]
    fn what_is_compiled_is_told_and_what_is_loaded_is_not() {
        static TOLD: Mutex<Vec<(String, Option<PathBuf>)>> = Mutex::new(Vec::new());
        fn tell(spec: &str, _: Duration, kept: Option<&Path>) {
            let mut told = TOLD.lock().unwrap();
            told.push((spec.into(), kept.map(Path::to_path_buf)));
        }
        let folder = Folder::new("told");
        for place in [Some(folder.0.clone()), Some(folder.0.clone()), None] {
            let programs = Programs::new(place, Some(tell));
            for n in [1, 2, 1] {
                programs
                    .program(&Paper::new("a"), &SOURCE, tile(n))
                    .unwrap();
            }
        }
        let kept = ("paper".to_string(), Some(folder.0.clone()));
        let lost = ("paper".to_string(), None);
        assert_eq!(
            *TOLD.lock().unwrap(),
            [kept.clone(), kept, lost.clone(), lost]
        );
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let paper = Paper::new("a");
        let nowhere = Programs::new(Some("/dev/null/programs".into()), None);
        nowhere.program(&paper, &SOURCE, tile(1)).unwrap();
        Programs::new(None, None)
            .program(&paper, &SOURCE, tile(1))
            .unwrap();
        assert_eq!(paper.counts(), (2, 0));
    }
}
