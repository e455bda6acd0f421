//! The suite catches bugs: every mutant of every kernel fails a standard case.

/// One test per operation, so that they run side by side.
macro_rules! hunt {
    ($($name:ident $op:ident),*) => {
        $(#[test]
        fn $name() {
            let emulator = backend_emulator::open("emulator").unwrap();
            let survivors = backend_emulator::survivors::<ops::$op>(&emulator, |_, _| true);
            assert!(survivors.is_empty(), "not caught: {survivors:?}");
        })*
    };
}
conformance::for_each_op!(hunt);

#[test]
fn there_are_mutants_of_many_kinds() {
    let names = backend_emulator::mutants::names();
    let kinds: std::collections::BTreeSet<&str> = names
        .iter()
        .filter_map(|name| Some(name.split_once('/')?.1))
        .collect();
    assert!(
        names.len() >= 300 && kinds.len() >= 150,
        "{} of {}",
        names.len(),
        kinds.len()
    );
}

#[test]
fn a_mutant_is_named_in_the_spec() {
    let open = |spec| backend_emulator::open(spec);
    assert!(open("emulator:mutant=matmul/last-k-dropped,async").is_ok());
    let error = open("emulator:mutant=matmul/none").unwrap_err().to_string();
    assert!(error.contains("matmul/last-k-dropped"), "{error}");
}
