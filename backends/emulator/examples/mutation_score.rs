//! How many wrong kernels the suite finds, and how many the rules of other projects find:
//! `cargo run --release -p glm-backend-emulator --example mutation_score -- [--json] [--no-rules] [--random-cases N]`.

use backend_emulator::{Character, Faults, Options, Score, of, score_of};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let after = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse().ok()
    };
    let options = Options {
        rules: !has("--no-rules"),
        random_cases: after("--random-cases").unwrap_or(0),
        ..Options::default()
    };
    let score = score_of(
        &of("emulator", Character::default(), Faults::default()),
        &options,
    );
    if has("--json") {
        let json = serde_json::to_string_pretty(&score).expect("a score is plain data");
        println!("{json}");
    } else {
        print(&score);
    }
    std::process::exit(i32::from(
        score.killed < score.mutants || score.false_alarms > 0,
    ));
}

fn print(score: &Score) {
    let of =
        |n: usize, all: usize| format!("{n} of {all} ({:.1} %)", 100.0 * n as f64 / all as f64);
    println!("{} mutants of {} kinds", score.mutants, score.kinds);
    println!("suite           killed {}", of(score.killed, score.mutants));
    println!(
        "                blamed {} right results, {} weakly ({} elements)",
        of(score.false_alarms, score.cases),
        score.weak,
        score.elements
    );
    let normal = score.killed_by_normal_numbers;
    if !score.rules.is_empty() {
        println!("normal numbers  killed {}", of(normal, score.mutants));
        let properties = score.killed_by_properties;
        println!("properties      killed {}", of(properties, score.mutants));
    }
    for rule in &score.rules {
        println!(
            "{:15} killed {}, blamed {} right results",
            rule.name,
            of(rule.killed, score.mutants),
            of(rule.false_alarms, rule.cases)
        );
    }
    for survivor in &score.survivors {
        println!("survives: {}/{}", survivor.op, survivor.name);
    }
    for blamed in &score.blamed {
        println!("false alarm: {blamed}");
    }
    println!("{:.0} s", score.seconds);
}
