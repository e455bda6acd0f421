// What every kernel may use: storage formats by integer arithmetic, so that rounding, NaN and subnormals do not depend
// on the driver; functions that are exact to a few units in the last place.

const WG: u32 = 64u;

const NEGATIVE_INFINITY: u32 = 0xff800000u;
// `ordered` of it.
const ORDERED_NEGATIVE_INFINITY: u32 = 0x007fffffu;
const LOWEST: f32 = -3.4028234663852886e38;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// The low 16 bits as an f16. NATIVE_HALF: the device's own function was found to be exact for every one.
fn f16_decode(h: u32) -> f32 {
    if NATIVE_HALF == 1u {
        return unpack2x16float(h).x;
    }
    return f16_by_integers(h);
}

fn f16_by_integers(h: u32) -> f32 {
    let exponent = (h >> 10u) & 31u;
    let fraction = h & 1023u;
    let normal = select(exponent + 112u, 255u, exponent == 31u) << 23u | fraction << 13u;
    let subnormal = bitcast<u32>(f32(fraction) * 5.9604644775390625e-8);
    return bitcast<f32>(select(normal, subnormal, exponent == 0u) | (h & 0x8000u) << 16u);
}

// Rounded to nearest, ties to even.
fn f16_encode(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let a = bits & 0x7fffffffu;
    if a > 0x7f800000u {
        return sign | 0x7e00u;
    }
    // From 2^16 on; what rounds up to it carries into the exponent by itself.
    if a >= 0x47800000u {
        return sign | 0x7c00u;
    }
    if a < 0x38800000u {
        // Below 2^-14: a multiple of 2^-24.
        let shift = min(126u - (a >> 23u), 25u);
        let m = (a & 0x7fffffu) | 0x800000u;
        let half = 1u << (shift - 1u);
        return sign | (m + half - 1u + ((m >> shift) & 1u)) >> shift;
    }
    return sign | (a - 0x38000000u + 0xfffu + ((a >> 13u) & 1u)) >> 13u;
}

fn bf16_decode(h: u32) -> f32 {
    return bitcast<f32>(h << 16u);
}

fn bf16_encode(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return bits >> 16u | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// Unsigned numbers that are ordered as the floats are: equal zeros, NaN above all. Never 0.
fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return 0xffffffffu;
    }
    if (bits & 0x7fffffffu) == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >> 31u == 1u);
}

// The float that `ordered` made the number of.
fn unordered(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >> 31u == 1u));
}

// e^x within 1 unit in the last place: x = n·ln 2 + r, Taylor's series for |r| <= ln(2)/2. NaN stays NaN.
fn exp_of(x: f32) -> f32 {
    let c = clamp(x, -104.0, 90.0);
    let n = floor(c * 1.44269504 + 0.5);
    // ln 2 in two parts, the first of so few bits that n times it is exact.
    let r = (c - n * 0.693145751953125) - n * 1.42860682e-6;
    var y = 1.0 / 5040.0;
    y = y * r + 1.0 / 720.0;
    y = y * r + 1.0 / 120.0;
    y = y * r + 1.0 / 24.0;
    y = y * r + 1.0 / 6.0;
    y = y * r + 0.5;
    y = y * r * r + r + 1.0;
    // 2^n in two factors, because one may be out of range.
    let half = i32(n) / 2;
    let low = bitcast<f32>(u32(half + 127) << 23u);
    let high = bitcast<f32>(u32(i32(n) - half + 127) << 23u);
    return select(y * low * high, x, is_nan(x));
}

// x · f, also when x is below the normal range and the device takes such numbers for zero.
fn times(x: f32, f: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7f800000u) != 0u {
        return x * f;
    }
    // x·2^64 is a normal number, or zero.
    let scaled = f32(bits & 0x7fffffu) * 2.5849394142282115e-26;
    return bitcast<f32>(bitcast<u32>(scaled) | (bits & 0x80000000u)) * f * 5.421010862427522e-20;
}
