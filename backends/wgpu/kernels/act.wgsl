// Activation functions, by number: 0 none, 1 silu, 2 gelu by erf, 3 gelu by tanh, 4 gelu by 1.702.

// erfc(z) for z >= 0: with t = 1/(1 + z/2), erfc(z) = t·exp(q(t) − z²), where q is a polynomial fitted at Chebyshev's
// nodes to ln(erfc(z)·exp(z²)/t) over 0 <= z <= 12; relative error below 2e-8 before rounding.
fn erfc_of(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    let u = t - 0.5714285714;
    var q = -0.128445951;
    q = q * u + 0.157751014;
    q = q * u + 0.120089634;
    q = q * u - 0.256369285;
    q = q * u - 0.0309051586;
    q = q * u + 0.298060796;
    q = q * u - 0.0524053127;
    q = q * u - 0.405318787;
    q = q * u + 0.105207931;
    q = q * u + 1.36640469;
    q = q * u - 0.574876305;
    return t * exp_of(q - z * z);
}

fn act(kind: u32, x: f32) -> f32 {
    var y = x;
    switch kind {
        case 1u: {
            y = x / (1.0 + exp_of(-x));
        }
        case 2u: {
            let tail = erfc_of(abs(x) * 0.70710678);
            y = 0.5 * x * select(2.0 - tail, tail, x < 0.0);
        }
        case 3u: {
            y = x / (1.0 + exp_of(-2.0 * (0.7978845608 * (x + 0.044715 * x * x * x))));
        }
        case 4u: {
            y = x / (1.0 + exp_of(-1.702 * x));
        }
        default: {
            return x;
        }
    }
    // The limit at −∞ is 0, and a NaN stays one.
    if is_nan(x) {
        return x;
    }
    return select(y, 0.0, bitcast<u32>(x) == NEGATIVE_INFINITY);
}
