//! The quantiser against values recorded from GLM's own, bit for bit.

use hal::{DType, WeightFormat};
use half::f16;
use ops::{HostWeight, nibble};
use serde_json::Value;

/// Element `i` of the golden files' tensor `name`: splitmix64 over the FNV-1a hash of the name, in [−1/2, 1/2).
fn element(name: &str, i: u64) -> f64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut z = hash.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f64 / f64::from(1 << 24) - 0.5
}

/// All numbers in `value`. As f32: the parser may miss the last bit of an f64, and all of these are f16 or integers.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().expect("a number") as f32],
    }
}

#[test]
fn quantises_as_glm_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../glm/tests/golden.json");
    let text = std::fs::read_to_string(path).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let golden = &golden["cases"]["quant"];
    let (rows, cols) = (6, 16);
    let data = (0..rows * cols).flat_map(|i| {
        let x = element("quant.weight", i as u64);
        f16::from_f64(x).to_le_bytes()
    });
    let f16s = WeightFormat::Dense(DType::F16);
    let weight = HostWeight::new(f16s, rows, cols, data.collect::<Vec<u8>>(), Vec::new()).unwrap();
    for (name, format) in [
        ("int8", WeightFormat::Int8Row),
        ("int4", WeightFormat::Int4Row),
    ] {
        let q = weight.convert(format).unwrap();
        let scales: Vec<f32> = (0..rows).map(|r| q.scale(r, 0)).collect();
        assert_eq!(scales, numbers(&golden[name]["scale"]), "{name}");
        let all = (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)));
        let elements: Vec<f32> = all.map(|(r, c)| q.element(r, c)).collect();
        assert_eq!(elements, numbers(&golden[name]["q"]), "{name}");
        if name == "int4" {
            let packed: Vec<f32> = q.data.iter().map(|&b| b.into()).collect();
            assert_eq!(packed, numbers(&golden[name]["packed_u8"]));
            assert_eq!(f32::from(nibble(q.data[0], 0)), elements[0]);
        }
    }
}
