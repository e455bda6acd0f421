//! Choosing case parameters: every pair of values once, or any combination for property tests.

/// Sizes at which kernels break: around vector widths, tiles and powers of two.
const SIZES: [usize; 20] = [
    1, 0, 2, 3, 7, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 1023, 1025, 4095, 4097,
];

/// Answers a case's questions "which of these?". A case asks the same questions in the same order whatever the
/// answers.
#[derive(Clone, Debug)]
pub struct Picks {
    answers: Answers,
    /// Number of choices of each question so far.
    asked: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Answers {
    /// The first choice each time, to count questions.
    First,
    /// These choices.
    Row(Vec<usize>),
    /// These fractions of 2¹⁶, of whatever range is asked for.
    Free(Vec<u16>),
    /// The same, but sizes of all magnitudes are equally likely.
    Short(Vec<u16>),
}

impl Picks {
    /// Answers from arbitrary numbers, for property tests: sizes are then any number, not just the listed ones.
    /// Smaller numbers give simpler cases; missing ones count as 0.
    pub fn free(numbers: Vec<u16>) -> Self {
        Self {
            answers: Answers::Free(numbers),
            asked: Vec::new(),
        }
    }

    /// As [`Picks::free`], with sizes of which each magnitude is as likely as the others: most cases are cheap, and
    /// long ones are among them.
    pub fn short(numbers: Vec<u16>) -> Self {
        Self {
            answers: Answers::Short(numbers),
            asked: Vec::new(),
        }
    }

    /// These choices, by their places.
    pub(crate) fn row(row: Vec<usize>) -> Self {
        Self {
            answers: Answers::Row(row),
            asked: Vec::new(),
        }
    }

    /// One of `choices`.
    pub fn one<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = match &self.answers {
            Answers::First => 0,
            Answers::Row(row) => row[self.asked.len()],
            Answers::Free(_) | Answers::Short(_) => self.fraction(choices.len()),
        };
        self.asked.push(choices.len());
        choices[at]
    }

    /// A size of at most `max`.
    pub fn size(&mut self, max: usize) -> usize {
        let free = match self.answers {
            Answers::Free(_) => Some(self.fraction(max + 1)),
            Answers::Short(_) => Some(self.magnitude(max)),
            Answers::First | Answers::Row(_) => None,
        };
        if let Some(size) = free {
            self.asked.push(max + 1);
            return size;
        }
        let listed = SIZES.iter().filter(|&&size| size <= max).count();
        self.one(&SIZES[..listed])
    }

    /// A size from 1 to `max`.
    pub fn size_from_1(&mut self, max: usize) -> usize {
        self.size(max).max(1)
    }

    /// The next number, of 2¹⁶.
    fn number(&self) -> usize {
        match &self.answers {
            Answers::Free(numbers) | Answers::Short(numbers) => {
                usize::from(numbers.get(self.asked.len()).copied().unwrap_or(0))
            }
            Answers::First | Answers::Row(_) => 0,
        }
    }

    fn fraction(&self, n: usize) -> usize {
        (self.number() * n) >> 16
    }

    /// 0, 1 to 2, 3 to 6, 7 to 14 … `max`, each range as likely as the others.
    fn magnitude(&self, max: usize) -> usize {
        let ranges = (max + 1).ilog2() as usize + 1;
        let scaled = self.number() * ranges;
        let start = 1usize << (scaled >> 16);
        let within = ((scaled & 0xffff) * start) >> 16;
        (start - 1 + within).min(max)
    }

    /// How many choices each question of `build` has.
    pub(crate) fn questions<T>(build: impl FnOnce(&mut Picks) -> T) -> Vec<usize> {
        let mut picks = Picks {
            answers: Answers::First,
            asked: Vec::new(),
        };
        build(&mut picks);
        picks.asked
    }
}

/// Rows of choices, one per factor, such that every pair of choices of two factors is in some row.
///
/// Source: the greedy construction of Cohen et al., "The AETG System", IEEE TSE 23 (1997), without its random restarts.
pub(crate) fn covering(factors: &[usize]) -> Vec<Vec<usize>> {
    let n = factors.len();
    // open[a][b][i * factors[b] + j]: the pair (a = i, b = j), a < b, is not covered yet.
    let mut open: Vec<Vec<Vec<bool>>> = (0..n)
        .map(|a| {
            let sizes = factors.iter().enumerate();
            sizes
                .map(|(b, &size)| vec![true; if a < b { factors[a] * size } else { 0 }])
                .collect()
        })
        .collect();
    let mut rows = Vec::new();
    loop {
        let next = (0..n)
            .flat_map(|a| (a + 1..n).map(move |b| (a, b)))
            .find_map(|(a, b)| {
                let pair = open[a][b].iter().position(|&open| open)?;
                Some((a, b, pair / factors[b], pair % factors[b]))
            });
        let Some((a, b, i, j)) = next else { break };
        let mut row = vec![None; n];
        (row[a], row[b]) = (Some(i), Some(j));
        // Choices start at another value in each row, so that factors without open pairs vary too.
        for f in (0..n).filter(|&f| f != a && f != b) {
            let gain = |choice: usize| {
                let others = row.iter().enumerate();
                let gained = others.filter(|&(o, &other)| match other {
                    Some(other) if o < f => open[o][f][other * factors[f] + choice],
                    Some(other) if o > f => open[f][o][choice * factors[o] + other],
                    _ => false,
                });
                gained.count()
            };
            let start = rows.len() % factors[f];
            let choices = (0..factors[f]).map(|c| (start + c) % factors[f]);
            row[f] = choices.rev().max_by_key(|&choice| gain(choice));
        }
        let row: Vec<usize> = row.into_iter().map(|choice| choice.unwrap_or(0)).collect();
        for a in 0..n {
            for b in a + 1..n {
                open[a][b][row[a] * factors[b] + row[b]] = false;
            }
        }
        rows.push(row);
    }
    if n == 1 {
        rows = (0..factors[0]).map(|i| vec![i]).collect();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_occurs() {
        let factors = [5, 3, 1, 4, 2, 7];
        let rows = covering(&factors);
        for a in 0..factors.len() {
            for b in a + 1..factors.len() {
                for (i, j) in (0..factors[a]).flat_map(|i| (0..factors[b]).map(move |j| (i, j))) {
                    assert!(rows.iter().any(|row| row[a] == i && row[b] == j));
                }
            }
        }
        // 35 pairs of the two largest factors is the least there can be.
        assert!((35..50).contains(&rows.len()), "{}", rows.len());
        assert_eq!(covering(&[3]).len(), 3);
    }

    #[test]
    fn short_picks_have_every_magnitude() {
        let size = |number| Picks::short(vec![number]).size(1025);
        let mut sizes: Vec<usize> = (0..=u16::MAX).map(size).collect();
        assert!(sizes.is_sorted());
        let under = |n: usize| sizes.iter().filter(|&&size| size < n).count();
        // Eleven ranges: five of them are below 31.
        assert!(under(31).abs_diff(65536 * 5 / 11) < 20, "{}", under(31));
        sizes.dedup();
        assert_eq!(sizes, (0..=1025).collect::<Vec<_>>());
        assert_eq!(Picks::short(vec![u16::MAX]).size(0), 0);
    }

    #[test]
    fn free_picks_cover_ranges_and_shrink_to_the_first() {
        let mut picks = Picks::free(vec![0, u16::MAX, 0, u16::MAX]);
        assert_eq!((picks.one(&[4, 5, 6]), picks.one(&[4, 5, 6])), (4, 6));
        assert_eq!(
            (picks.size(100), picks.size(100), picks.size(100)),
            (0, 100, 0)
        );
    }
}
