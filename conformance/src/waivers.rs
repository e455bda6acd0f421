//! Known failures: each with a reason, an owner and a day on which it ends.
//!
//! ```toml
//! [[waiver]]
//! id = "W1"
//! test = "matmul/f16-int8/*"    # names of checks, with * and ?
//! device = "opencl*"            # device spec or name
//! driver = "*23.2*"             # optional: what the device tells of its driver
//! class = ["FAIL"]              # optional: only these statuses
//! reason = "accumulates in f16: vendor ticket 1234"
//! owner = "porting@example.org"
//! expires = 2027-01-31
//! ```

use std::path::Path;

use hal::{Error, ErrorKind, Result};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::{DeviceFacts, Record, Status};

/// Today, UTC.
pub fn today() -> Date {
    jiff::tz::Offset::UTC
        .to_datetime(jiff::Timestamp::now())
        .date()
}

/// One known failure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Its name in reports.
    pub id: String,
    /// Which checks, with `*` and `?`.
    pub test: String,
    /// Which devices, by spec or name.
    pub device: String,
    /// Which drivers, by [`DeviceFacts::detail`]; all when absent.
    pub driver: Option<String>,
    /// Which statuses; all failures when absent.
    #[serde(default)]
    pub class: Vec<Status>,
    /// Why it fails.
    pub reason: String,
    /// Who will mend it.
    pub owner: String,
    expires: toml::value::Datetime,
}

/// What became of a waiver in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Its id.
    pub id: String,
    /// Why it fails.
    pub reason: String,
    /// Who will mend it.
    pub owner: String,
    /// Its last day.
    pub expires: String,
    /// Failures that it covers.
    pub waived: usize,
    /// Checks that pass in spite of it.
    pub unexpected: usize,
}

/// A file of waivers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waivers {
    #[serde(default)]
    waiver: Vec<Waiver>,
}

impl Waivers {
    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Corrupt` when it is no such file; `InvalidArgument` when a waiver has expired.
    pub fn read(path: &Path, today: Date) -> Result<Self> {
        let doing = format!("read {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            };
            Error::new(kind, doing.clone(), e.to_string()).next_step("check --waivers")
        })?;
        Self::parse(&text, today).map_err(|e| {
            Error::new(e.kind(), doing, e.detail())
                .next_step(e.next().unwrap_or("docs/conformance.md shows a waiver"))
        })
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`Waivers::read`].
    pub fn parse(text: &str, today: Date) -> Result<Self> {
        const DOING: &str = "read waivers";
        let waivers: Self =
            toml::from_str(text).map_err(|e| Error::corrupt(DOING, e.to_string()))?;
        for waiver in &waivers.waiver {
            let id = &waiver.id;
            if [id, &waiver.reason, &waiver.owner]
                .iter()
                .any(|s| s.trim().is_empty())
            {
                let why = format!("waiver '{id}' lacks an id, a reason or an owner");
                return Err(Error::corrupt(DOING, why));
            }
            let wrong = waiver.class.iter().find(|status| !status.is_failure());
            if let Some(status) = wrong {
                let why = format!("waiver '{id}' is for {status}, which is no failure");
                return Err(Error::corrupt(DOING, why));
            }
            let date = waiver.expires.date.and_then(|d| {
                Date::new(i16::try_from(d.year).ok()?, d.month as i8, d.day as i8).ok()
            });
            let Some(date) = date else {
                let why = format!("waiver '{id}' expires on no day: write 2027-01-31");
                return Err(Error::corrupt(DOING, why));
            };
            if date < today {
                let why = format!("waiver '{id}' of {} expired on {date}", waiver.owner);
                return Err(Error::invalid(DOING, why)
                    .next_step("mend the failure, or let its owner renew the waiver"));
            }
        }
        Ok(waivers)
    }

    /// Changes the status of every record that a waiver for this device covers: failures are waived, and what passes
    /// in spite of a waiver fails. A waiver for [`Status::FLAKY`](Status::Flaky) expects both.
    pub fn apply(&self, device: &DeviceFacts, records: &mut [Record]) -> Vec<Applied> {
        let here = self.waiver.iter().filter(|waiver| {
            let of = WildMatch::new(&waiver.device);
            let driver = waiver.driver.as_ref().map(|d| WildMatch::new(d));
            (of.matches(&device.spec) || of.matches(&device.name))
                && driver.is_none_or(|driver| driver.matches(&device.detail))
        });
        let mut all = Vec::new();
        for waiver in here {
            let mut applied = Applied {
                id: waiver.id.clone(),
                reason: waiver.reason.clone(),
                owner: waiver.owner.clone(),
                expires: waiver.expires.to_string(),
                waived: 0,
                unexpected: 0,
            };
            let test = WildMatch::new(&waiver.test);
            for record in records
                .iter_mut()
                .filter(|r| r.waiver.is_none() && test.matches(&r.name))
            {
                let status = record.outcome.status;
                let class = waiver.class.is_empty() || waiver.class.contains(&status);
                let new = if status.is_failure() && class {
                    applied.waived += 1;
                    Status::Waived
                } else if status.is_pass() && !waiver.class.contains(&Status::Flaky) {
                    applied.unexpected += 1;
                    Status::XPass
                } else {
                    continue;
                };
                record.unwaived = Some(status);
                record.outcome.status = new;
                record.waiver = Some(waiver.id.clone());
            }
            all.push(applied);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, Outcome};

    const TODAY: Date = jiff::civil::date(2026, 11, 25);

    fn text(extra: &str) -> String {
        format!(
            "[[waiver]]\nid = \"W1\"\ntest = \"matmul/f16*\"\ndevice = \"opencl*\"\n\
             reason = \"f16 sums\"\nowner = \"us\"\n{extra}"
        )
    }

    fn parse(extra: &str) -> Result<Waivers> {
        Waivers::parse(&text(extra), TODAY)
    }

    fn records() -> Vec<Record> {
        let record = |name: &str, status| Record {
            name: name.into(),
            level: Level::Matmul,
            dtype: None,
            weight: None,
            waiver: None,
            unwaived: None,
            outcome: Outcome::new("matmul", name).ended(status, ""),
        };
        vec![
            record("matmul/f16/1", Status::Fail),
            record("matmul/f16/2", Status::Pass),
            record("matmul/f16/3", Status::Crash),
            record("matmul/f32/4", Status::Fail),
            record("matmul/f16/5", Status::Unsupported),
        ]
    }

    fn device(spec: &str, detail: &str) -> DeviceFacts {
        DeviceFacts {
            spec: spec.into(),
            name: "a chip".into(),
            detail: detail.into(),
            parallelism: 1,
            native_floats: Vec::new(),
            memory_bytes: None,
            claims: Vec::new(),
            remarks: Vec::new(),
        }
    }

    fn statuses(extra: &str, device: &DeviceFacts) -> Vec<Status> {
        let mut records = records();
        parse(extra).unwrap().apply(device, &mut records);
        records.iter().map(|r| r.outcome.status).collect()
    }

    #[test]
    fn waives_failures_and_fails_what_passes() {
        use Status::{Crash, Fail, Pass, Unsupported, Waived, XPass};
        let here = device("opencl:0.0", "driver 23.2");
        let end = "expires = 2026-11-25\n";
        assert_eq!(
            statuses(end, &here),
            [Waived, XPass, Waived, Fail, Unsupported]
        );
        let class = format!("{end}class = [\"FAIL\", \"FLAKY\"]\n");
        assert_eq!(
            statuses(&class, &here),
            [Waived, Pass, Crash, Fail, Unsupported]
        );
        let driver = format!("{end}driver = \"*23.3*\"\n");
        for (extra, device) in [(end, device("cpu", "")), (&*driver, here.clone())] {
            assert_eq!(
                statuses(extra, &device),
                [Fail, Pass, Crash, Fail, Unsupported]
            );
        }
        let applied = parse(end).unwrap().apply(&here, &mut records());
        assert_eq!((applied[0].waived, applied[0].unexpected), (2, 1));
        assert_eq!(applied[0].expires, "2026-11-25");
    }

    #[test]
    fn refuses_files_that_hide_something() {
        let kind = |extra: &str| parse(extra).unwrap_err().kind();
        assert_eq!(kind("expires = 2026-11-24\n"), ErrorKind::InvalidArgument);
        for extra in [
            "",
            "expires = \"soon\"\n",
            "expires = 12:00:00\n",
            "expires = 2027-01-01\nclass = [\"PASS\"]\n",
            "expires = 2027-01-01\nclass = [\"WRONG\"]\n",
            "expires = 2027-01-01\nexpiry = 2028-01-01\n",
        ] {
            assert_eq!(kind(extra), ErrorKind::Corrupt, "{extra}");
        }
        let ownerless = text("expires = 2027-01-01\n").replace("\"us\"", "\" \"");
        assert!(Waivers::parse(&ownerless, TODAY).is_err());
        assert_eq!(Waivers::parse("", TODAY).unwrap(), Waivers::default());
    }
}
