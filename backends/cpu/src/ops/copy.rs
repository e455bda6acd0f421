//! Strided copy of bits.

use hal::{DType, View};
use ops::StridedCopy;

use super::native::{Planned, native};
use super::strided::Walk;
use super::tensor::Tensor;
use crate::device::Cpu;

pub(super) fn plan(cpu: &Cpu, op: &StridedCopy) -> Planned {
    let cpu = cpu.clone();
    Ok(Some(match op.dtype {
        DType::F32 | DType::I32 => native(move |args| copy::<u32>(&cpu, args)),
        DType::F16 | DType::BF16 => native(move |args| copy::<u16>(&cpu, args)),
        DType::I8 | DType::U8 => native(move |args| copy::<u8>(&cpu, args)),
        _ => return Ok(None),
    }))
}

fn copy<T: bytemuck::Pod + Send>(cpu: &Cpu, args: &[View<'_>]) {
    // SAFETY: each run is written by the thread that has it.
    let [out, x] = [0, 1].map(|i| unsafe { Tensor::<T>::new(&args[i]) });
    let walk = Walk::new([&args[0], &args[1]]);
    let [to, from] = walk.steps();
    walk.run(cpu, |offsets, len| {
        let (out, x) = (out.run(offsets[0], to, len), x.run(offsets[1], from, len));
        match (out.row(), x.row()) {
            (Some(out), Some(x)) => out.0.iter().zip(x.0).for_each(|(o, x)| o.set(x.get())),
            _ => (0..len).for_each(|i| out.set(i, x.get(i))),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Arg, check_exact};

    #[test]
    fn copies_every_type_over_any_strides() {
        for dtype in DType::ALL {
            let shape = [3, 4, 5, 7];
            let x = || Arg::new(&shape, (0..420).map(|i| f64::from(i % 127)).collect());
            for args in [
                [Arg::out(&shape), x()],
                [Arg::out(&shape).padded(), x()],
                [Arg::out(&shape), x().padded()],
                [Arg::out(&shape).strides(&[1, 3, 12, 60]), x().padded()],
                [
                    Arg::out(&[2, 9000]),
                    Arg::new(&[2, 9000], vec![3.0; 18_000]).strides(&[0, 0]),
                ],
                [Arg::out(&[0, 3]), Arg::out(&[0, 3])],
                [Arg::out(&[1]), Arg::new(&[1], vec![5.0]).strides(&[0])],
            ] {
                check_exact(&StridedCopy { dtype }, &args);
            }
        }
    }
}
