//! Executors that are kept: what is repeated is prepared once, and told of other addresses. Emulated.

mod common;

use backend_emulator::stand_in::StandIn;
use hal::{Buffer, DType, ErrorKind, Result, Stream, View};
use ops::{Binary, Context, Elementwise, ElementwiseArgs, Plan};

use common::CANN;

const ROWS: usize = 8;

/// A sum, and memory for it.
struct Sum {
    context: Context,
    plan: Plan<Elementwise>,
}

impl Sum {
    fn new() -> Self {
        let context = Context::new(backend_ascend::open("ascend:0").unwrap());
        let spec = Elementwise {
            kind: Binary::Add,
            dtype: DType::F32,
            alpha: 1.0,
        };
        let plan = context.plan(spec).unwrap();
        Self { context, plan }
    }

    fn stream(&self) -> Box<dyn Stream> {
        self.context.device().stream().unwrap()
    }

    /// `at` floats into memory of its own each, 1 + 2.
    fn run(&self, stream: &mut dyn Stream, at: usize) -> Result<()> {
        let device = self.context.device();
        let bytes = 4 * (at + ROWS);
        let [out, a, b] = [(); 3].map(|()| device.alloc(bytes).unwrap());
        let view = |buffer| View::at(buffer, 4 * at, DType::F32, &[ROWS]).unwrap();
        fn fill(stream: &mut dyn Stream, buffer: &Buffer, x: f32) -> Result<()> {
            let floats = x.to_le_bytes().repeat(buffer.bytes() / 4);
            stream.upload(&View::of_bytes(buffer), &floats)
        }
        fill(stream, &a, 1.0)?;
        fill(stream, &b, 2.0)?;
        let args = ElementwiseArgs {
            out: view(&out),
            a: view(&a),
            b: view(&b),
        };
        let nothing = View::of_bytes(&out).slice(0, 0..0)?;
        self.plan.run(stream, args, &nothing)?;
        let mut back = [0; 4 * ROWS];
        stream.download(&mut back, &view(&out))?;
        assert_eq!(back[..], 3f32.to_le_bytes().repeat(ROWS));
        Ok(())
    }
}

/// How often each of these was called since this was last asked.
fn count<const N: usize>(stand_in: &StandIn, names: [&str; N]) -> [usize; N] {
    let calls = stand_in.calls();
    names.map(|name| calls.iter().filter(|call| *call == name).count())
}

const WATCHED: [&str; 4] = [
    "aclnnAddGetWorkspaceSize",
    "aclnnAdd",
    "aclSetTensorAddr",
    "aclDestroyAclOpExecutor",
];

#[test]
fn what_is_repeated_is_prepared_once_for_each_queue() {
    let name = "what_is_repeated_is_prepared_once_for_each_queue";
    CANN.emulated(name, &[], &[], |stand_in| {
        let sum = Sum::new();
        let mut streams = [sum.stream(), sum.stream()];
        sum.run(&mut *streams[0], 0).unwrap();
        assert_eq!(count(&stand_in, WATCHED), [1, 1, 0, 0]);
        // Other memory, of which some may lie where some lay before.
        sum.run(&mut *streams[0], 8).unwrap();
        let [prepared, queued, told, _] = count(&stand_in, WATCHED);
        assert_eq!((prepared, queued), (0, 1));
        assert!((1..=3).contains(&told), "{told}");
        sum.run(&mut *streams[1], 0).unwrap();
        assert_eq!(count(&stand_in, WATCHED)[0], 1);
        // Where addresses have no place, an executor serves once.
        sum.run(&mut *streams[0], 1).unwrap();
        assert_eq!(count(&stand_in, WATCHED), [1, 1, 0, 0]);
        drop((streams, sum));
        assert_eq!(count(&stand_in, WATCHED), [0, 0, 0, 2]);
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn a_library_that_keeps_none_works_too() {
    let name = "a_library_that_keeps_none_works_too";
    CANN.emulated(name, &[], &["aclSetTensorAddr"], |stand_in| {
        let sum = Sum::new();
        let mut stream = sum.stream();
        for _ in 0..3 {
            sum.run(&mut *stream, 0).unwrap();
            assert_eq!(count(&stand_in, WATCHED), [1, 1, 0, 0]);
        }
        drop((stream, sum));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn what_cannot_be_kept_or_told_is_made_anew() {
    let name = "what_cannot_be_kept_or_told_is_made_anew";
    CANN.emulated(name, &[], &[], |stand_in| {
        let sum = Sum::new();
        let mut stream = sum.stream();
        stand_in.fail("aclSetAclOpExecutorRepeatable", 1, 561_103);
        for prepared in [1, 1, 0] {
            stand_in.calls();
            sum.run(&mut *stream, 0).unwrap();
            assert_eq!(count(&stand_in, WATCHED)[0], prepared);
        }
        stand_in.fail("aclSetTensorAddr", 1, 161_002);
        sum.run(&mut *stream, 16).unwrap();
        assert_eq!(count(&stand_in, WATCHED)[0], 1);
        stand_in.fail("", 0, 0);
        drop((stream, sum));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}

#[test]
fn each_call_about_it_may_fail() {
    CANN.emulated("each_call_about_it_may_fail", &[], &[], |stand_in| {
        let run = || {
            let sum = Sum::new();
            let mut stream = sum.stream();
            sum.run(&mut *stream, 0)?;
            sum.run(&mut *stream, 8)
        };
        run().unwrap();
        for (function, code, kind) in [
            ("aclnnAddGetWorkspaceSize", 161_002, ErrorKind::Unsupported),
            ("aclnnAddGetWorkspaceSize", 207_001, ErrorKind::OutOfMemory),
            ("aclnnAdd", 361_001, ErrorKind::Unexpected),
            ("aclnnAdd", 507_015, ErrorKind::DeviceLost),
            ("aclCreateScalar", 1, ErrorKind::OutOfMemory),
            ("aclCreateScalar", 507_015, ErrorKind::DeviceLost),
        ] {
            stand_in.fail(function, 1, code);
            let e = run().unwrap_err();
            stand_in.fail("", 0, 0);
            assert_eq!(e.kind(), kind, "{function}: {e}");
            assert!(e.next().is_some(), "{function}: {e}");
            assert_eq!(stand_in.live(), [""; 0], "{function}");
        }
        // The second use of an executor fails too, and leaves nothing.
        stand_in.fail("aclnnAdd", 2, 361_001);
        assert_eq!(run().unwrap_err().kind(), ErrorKind::Unexpected);
        assert_eq!(stand_in.live(), [""; 0]);
        run().unwrap();
    });
}

#[test]
fn an_executor_that_finds_no_workspace_is_let_go() {
    let name = "an_executor_that_finds_no_workspace_is_let_go";
    CANN.emulated(name, &[], &[], |stand_in| {
        let sum = Sum::new();
        let mut stream = sum.stream();
        // Memory of the arguments, then that of the operator.
        stand_in.fail("aclrtMalloc", 4, 207_001);
        let e = sum.run(&mut *stream, 0).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory, "{e}");
        stand_in.fail("", 0, 0);
        sum.run(&mut *stream, 0).unwrap();
        drop((stream, sum));
        assert_eq!(stand_in.live(), [""; 0]);
    });
}
