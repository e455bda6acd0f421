//! Properties of activations, gated units and elementwise sums.

use hal::{DType, Result};
use ops::reference::Tensor;
use ops::{Act, Activation, Binary, Elementwise, Glu, Half};

use super::{HOLDS, Held, Row, close, equal, first, require};
use crate::lab::{Lab, normal};

pub(super) const TESTS: &[Row] = &[
    ("activation", "f(x) − f(−x) = x", odd_part),
    ("glu", "it is activation and product", glu_parts),
    ("elementwise", "a + b = b + a, a − a = 0", sums),
];

fn odd_part(lab: &Lab) -> Held {
    let x = normal(&[2, 500], "odd").map(|x| 4.0 * x);
    for act in Act::ALL {
        let op = Activation {
            act,
            dtype: DType::F32,
        };
        let plus = first!(lab.run(op.clone(), &[&x.shape], std::slice::from_ref(&x)));
        let minus = first!(lab.run(op, &[&x.shape], &[x.map(|x| -x)]));
        let odd: Vec<f64> = plus
            .data
            .iter()
            .zip(&minus.data)
            .map(|(a, b)| a - b)
            .collect();
        require!(close(&odd, &x.data, 1e-5));
        // Between 0 and x, and not x itself near 1.
        let at_one = first!(lab_activation(lab, act, 1.0));
        let ok = (0.7..0.86).contains(&at_one.data[0]);
        require!(
            ok.then_some(())
                .ok_or(format!("{act:?}(1) is {}", at_one.data[0]))
        );
    }
    HOLDS
}

fn lab_activation(lab: &Lab, act: Act, x: f64) -> Result<Option<Vec<Tensor>>> {
    let op = Activation {
        act,
        dtype: DType::F32,
    };
    lab.run(op, &[&[1, 1]], &[Tensor::new(&[1, 1], vec![x])])
}

fn glu_parts(lab: &Lab) -> Held {
    let (m, dim) = (3, 130);
    let x = normal(&[m, 2 * dim], "glu").map(|x| 2.0 * x);
    for (gate, limit) in [
        (Half::First, None),
        (Half::Second, None),
        (Half::First, Some(1.5f32)),
    ] {
        let op = Glu {
            dim,
            act: Act::Silu,
            gate,
            limit,
            dtype: DType::F32,
        };
        let halves = op.halves();
        // A device that composes it has no limit.
        let y = match lab.run(op, &[&[m, dim]], std::slice::from_ref(&x))? {
            Some(mut outputs) => outputs.swap_remove(0),
            None if limit.is_some() => continue,
            None => return Ok(None),
        };
        let half = |i: usize| {
            let part = (0..m).flat_map(|r| x.row(r)[halves[i].clone()].to_vec());
            Tensor::new(&[m, dim], part.collect())
        };
        let l = f64::from(limit.unwrap_or(f32::MAX));
        let act = Activation {
            act: Act::Silu,
            dtype: DType::F32,
        };
        let g = first!(lab.run(act, &[&[m, dim]], &[half(0).map(|g| g.min(l))]));
        let u = half(1).map(|u| u.clamp(-l, l));
        let want: Vec<f64> = g.data.iter().zip(&u.data).map(|(g, u)| g * u).collect();
        require!(close(&y.data, &want, 1e-6));
    }
    HOLDS
}

fn sums(lab: &Lab) -> Held {
    let (a, b) = (normal(&[3, 77], "a"), normal(&[3, 77], "b"));
    let run = |kind, alpha, a: &Tensor, b: &Tensor| {
        let op = Elementwise {
            kind,
            dtype: DType::F32,
            alpha,
        };
        lab.run(op, &[&[3, 77]], &[a.clone(), b.clone()])
    };
    let (ab, ba) = (
        first!(run(Binary::Add, 1.0, &a, &b)),
        first!(run(Binary::Add, 1.0, &b, &a)),
    );
    require!(equal(&ab.data, &ba.data));
    let zero = first!(run(Binary::Sub, 1.0, &a, &a));
    require!(equal(&zero.data, &[0.0; 231]));
    // a + 4·b twice over: by alpha, and by a larger b.
    let by_alpha = first!(run(Binary::Add, 4.0, &a, &b));
    let by_b = first!(run(Binary::Add, 1.0, &a, &b.map(|b| 4.0 * b)));
    require!(equal(&by_alpha.data, &by_b.data));
    let ones = a.map(|_| 1.0);
    let doubled = first!(run(Binary::Mul, 2.0, &a, &ones));
    let sum = first!(run(Binary::Add, 1.0, &a, &a));
    require!(equal(&doubled.data, &sum.data));
    let difference = first!(run(Binary::Sub, 0.5, &a, &b));
    let negative = first!(run(Binary::Add, -0.5, &a, &b));
    Ok(Some(equal(&difference.data, &negative.data)))
}
