//! Rounding with a guess at the inputs' correlations: against a slow twin in double precision, and for what it is meant
//! to do.

use aurora_quantizers::formats::FORMATS;
use aurora_quantizers::gptq::{Guess, sample};
use aurora_quantizers::grid::Levels;
use aurora_quantizers::{BlockFormat, Care, Grid, Scales, matrix};

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn many(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.normal()).collect()
    }

    /// A model of training: `directions` that inputs take, and rows that are sums of inputs and some noise of their
    /// own.
    fn trained(&mut self, rows: usize, cols: usize) -> Trained {
        let size: Vec<f64> = self.many(cols).iter().map(|v| (0.5 * v).exp()).collect();
        let directions: Vec<Vec<f64>> = (0..6).map(|_| self.many(cols)).collect();
        let input = |random: &mut Random| -> Vec<f64> {
            let (mix, own) = (random.many(directions.len()), random.many(cols));
            let at = |i: usize| own[i] + 0.7 * directions.iter().zip(&mix).map(|(d, m)| d[i] * m).sum::<f64>();
            (0..cols).map(|i| size[i] * at(i)).collect()
        };
        let mut w = Vec::new();
        for _ in 0..rows {
            let mut row = self.many(cols);
            for _ in 0..4 {
                input(self).iter().zip(&mut row).zip(&size).for_each(|((x, w), size)| *w += x / size);
            }
            w.extend(row.iter().map(|v| (v * 0.02) as f32));
        }
        let inputs: Vec<Vec<f64>> = (0..4 * cols).map(|_| input(self)).collect();
        let importance =
            (0..cols).map(|i| (inputs.iter().map(|x| x[i] * x[i]).sum::<f64>() / inputs.len() as f64) as f32).collect();
        Trained { w, inputs, importance }
    }
}

struct Trained {
    w: Vec<f32>,
    inputs: Vec<Vec<f64>>,
    importance: Vec<f32>,
}

impl Trained {
    /// Mean square of the outputs' errors.
    fn loss(&self, values: &[f32]) -> f64 {
        let cols = self.importance.len();
        let rows = self.w.chunks(cols).zip(values.chunks(cols));
        let errors: Vec<Vec<f64>> =
            rows.map(|(w, v)| w.iter().zip(v).map(|(w, v)| f64::from(w - v)).collect()).collect();
        let output = |e: &Vec<f64>, x: &Vec<f64>| e.iter().zip(x).map(|(e, x)| e * x).sum::<f64>().powi(2);
        errors.iter().map(|e| self.inputs.iter().map(|x| output(e, x)).sum::<f64>()).sum()
    }
}

fn formats() -> impl Iterator<Item = &'static dyn BlockFormat> {
    FORMATS.iter().filter_map(|f| f.blocks()).filter(|f| Guess::helps(f.spec()))
}

fn values(format: &dyn BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.spec().bytes * format.spec().block];
    format.decode(bytes, &mut out);
    out
}

fn nearest(format: &dyn BlockFormat, w: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; format.spec().bytes_for(w.len()).unwrap()];
    format.encode(w, Scales::Search(importance), &mut out);
    out
}

fn joint(format: &dyn BlockFormat, guess: &Guess, w: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; format.spec().bytes_for(w.len()).unwrap()];
    guess.encode(format, matrix(w, guess.cols()), importance, &mut out);
    out
}

const CARES: [Care; 2] = [Care::Quick, Care::Full];

#[test]
fn errors_cancel_on_inputs_that_it_never_saw() {
    let (rows, cols) = (96, 256);
    let t = Random(1).trained(rows, cols);
    for (importance, care) in [None, Some(&t.importance[..])].into_iter().flat_map(|i| CARES.map(|care| (i, care))) {
        let guess = Guess::of(matrix(&t.w, cols).to_owned(), importance, care).expect("columns that go together");
        for format in formats() {
            let before = t.loss(&values(format, &nearest(format, &t.w, importance)));
            let after = t.loss(&values(format, &joint(format, &guess, &t.w, importance)));
            // Half of these inputs' power lies in directions that rows share.
            assert!(after < 0.9 * before, "{}: {after} of {before}", format.spec().name);
        }
    }
}

#[test]
fn weights_without_order_are_left_alone() {
    let mut random = Random(2);
    for (rows, cols) in [(64, 32), (500, 256), (128, 544)] {
        let w: Vec<f32> = random.many(rows * cols).iter().map(|v| *v as f32).collect();
        assert!(Guess::of(matrix(&w, cols).to_owned(), None, Care::Quick).is_none(), "{rows} x {cols}");
    }
    assert!(Guess::of(matrix(&[0.0; 64], 32).to_owned(), None, Care::Quick).is_none(), "zeros");
    assert!(Guess::of(matrix(&[f32::NAN; 64], 32).to_owned(), None, Care::Quick).is_none(), "not numbers");
    assert!(Guess::of(matrix(&[], 32).to_owned(), None, Care::Quick).is_none(), "no rows");
}

#[test]
fn rows_do_not_depend_on_those_beside_them() {
    // The last strip has 64 columns; 19 rows are a full set of lanes and some.
    let (rows, cols) = (64, 320);
    let t = Random(3).trained(rows, cols);
    let guesses = CARES.map(|care| Guess::of(matrix(&t.w, cols).to_owned(), Some(&t.importance), care).unwrap());
    let simple = formats().filter(|f| f.spec().block == 32);
    for (format, guess) in simple.flat_map(|format| guesses.iter().map(move |guess| (format, guess))) {
        let some = &t.w[..19 * cols];
        let all = joint(format, guess, some, Some(&t.importance));
        assert!(all != nearest(format, some, Some(&t.importance)), "{}", format.spec().name);
        for (row, bytes) in some.chunks(cols).zip(all.chunks(all.len() / 19)) {
            assert!(joint(format, guess, row, Some(&t.importance)) == bytes, "{}", format.spec().name);
        }
    }
}

#[test]
fn dead_columns_and_huge_weights_do_no_harm() {
    let (rows, cols) = (64, 64);
    let mut t = Random(4).trained(rows, cols);
    t.w.chunks_mut(cols).for_each(|row| row[7] = 0.0);
    t.importance[9] = 0.0;
    t.importance[10] = f32::MIN_POSITIVE;
    for by in [1e-30, 1.0, 1e5] {
        let w: Vec<f32> = t.w.iter().map(|w| w * by).collect();
        let guess = Guess::of(matrix(&w, cols).to_owned(), Some(&t.importance), Care::Quick).unwrap();
        for format in formats().filter(|f| f.spec().block == 32) {
            let values = values(format, &joint(format, &guess, &w, Some(&t.importance)));
            assert!(values.iter().all(|v| v.is_finite()), "{} times {by}", format.spec().name);
        }
    }
}

#[test]
fn a_strip_without_order_is_rounded_to_nearest_beside_one_with() {
    let (rows, cols, strip) = (500, 256, 128);
    let mut random = Random(6);
    let mut w = random.trained(rows, cols).w;
    for row in w.chunks_mut(cols) {
        row[strip..].iter_mut().for_each(|w| *w = random.normal() as f32);
    }
    let guess = Guess::of(matrix(&w, cols).to_owned(), None, Care::Quick).expect("columns that go together");
    let some = &w[..19 * cols];
    for format in formats().filter(|f| f.spec().block == 256) {
        let mut grids = vec![Grid::single(256, 0.0, 0.0, Levels::Linear { min: 0, max: 0 }); 19];
        format.fit_many(some, &[1.0; 256], Care::Quick, &mut grids);
        let found = values(format, &joint(format, &guess, some, None));
        let mut others = 0;
        for ((found, x), grid) in found.chunks(cols).zip(some.chunks(cols)).zip(&grids) {
            let same = |i: usize| found[i] == grid.value(i, grid.nearest(i, x[i]));
            assert!((strip..cols).all(same), "{}", format.spec().name);
            others += (0..strip).filter(|i| !same(*i)).count();
        }
        assert!(others > 0, "{}: nothing chosen jointly", format.spec().name);
    }
}

#[test]
fn a_sample_is_spread_over_all_rows() {
    assert_eq!(sample(0), vec![0..0]);
    assert_eq!(sample(512), vec![0..512]);
    for rows in [513, 1000, 32000] {
        let runs = sample(rows);
        assert_eq!(runs.iter().map(|r| r.len()).sum::<usize>(), 512);
        assert_eq!((runs[0].start, runs[runs.len() - 1].end), (0, rows));
        assert!(runs.windows(2).all(|r| r[0].end <= r[1].start), "{runs:?}");
    }
}

/// The guess as the module's text has it, `[n, n]`.
fn slow_guess(w: &[f32], n: usize, importance: &[f32]) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = w
        .chunks(n)
        .map(|row| {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|v| f64::from(*v) / length).collect()
        })
        .collect();
    let product = |i: usize, j: usize| rows.iter().map(|r| r[i] * r[j]).sum::<f64>();
    let mut like = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            like[i * n + j] = product(i, j) / (product(i, i) * product(j, j)).sqrt();
        }
    }
    let others = (0..n * n).filter(|at| at / n != at % n);
    let square = others.clone().map(|at| like[at] * like[at]).sum::<f64>() / (n * n - n) as f64;
    let noise = 1.0 / rows.len() as f64;
    let trust = (0.6 * (1.0 - noise / square)).min(0.1 / (square - noise).sqrt());
    others.for_each(|at| like[at] *= trust);
    let mean = importance.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
    let size: Vec<f64> = importance.iter().map(|v| (f64::from(*v) / mean).max(0.01).sqrt()).collect();
    (0..n * n).map(|at| like[at] * size[at / n] * size[at % n]).collect()
}

/// Gauss-Jordan elimination without pivoting, fit for positive definite matrices.
fn inverse(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut inv: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
    for k in 0..n {
        let pivot = a[k * n + k];
        for j in 0..n {
            a[k * n + j] /= pivot;
            inv[k * n + j] /= pivot;
        }
        for i in (0..n).filter(|i| *i != k) {
            let by = a[i * n + k];
            for j in 0..n {
                a[i * n + j] -= by * a[k * n + j];
                inv[i * n + j] -= by * inv[k * n + j];
            }
        }
    }
    inv
}

#[test]
fn codes_are_those_of_the_slow_twin() {
    for (format, care) in formats().flat_map(|format| CARES.map(|care| (format, care))) {
        let n = if format.spec().block == 256 { 256 } else { 96 };
        let t = Random(5).trained(64, n);
        let guess = Guess::of(matrix(&t.w, n).to_owned(), Some(&t.importance), care).unwrap();
        // Strips of columns do not know of each other.
        let strip = if care == Care::Quick { 128 } else { 256 };
        let mut h = vec![0.0; n * n];
        for first in (0..n).step_by(strip) {
            let columns = first..(first + strip).min(n);
            let w: Vec<f32> = t.w.chunks(n).flat_map(|row| &row[columns.clone()]).copied().collect();
            let part = slow_guess(&w, columns.len(), &t.importance[columns.clone()]);
            for (i, row) in part.chunks(columns.len()).enumerate() {
                h[(first + i) * n..][columns.clone()].copy_from_slice(row);
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| h[b * n + b].total_cmp(&h[a * n + a]));
        let some = &t.w[..8 * n];
        let found = values(format, &joint(format, &guess, some, Some(&t.importance)));
        let mut inv = inverse(h, n);
        let mut now: Vec<f64> = some.iter().map(|w| f64::from(*w)).collect();
        let block = format.spec().block;
        let none = Grid::single(block, 0.0, 0.0, Levels::Linear { min: 0, max: 0 });
        let mut grids = vec![none; some.len() / block];
        format.fit_many(some, &t.importance, care, &mut grids);
        // Rows in which something lay so near to the middle of two levels that rounding noise decided.
        let (mut undecided, mut compared) = ([false; 8], 0);
        for &k in &order {
            let row_k: Vec<f64> = inv[k * n..][..n].to_vec();
            for r in 0..8 {
                let (at, x) = (r * n + k, now[r * n + k]);
                let grid = &grids[at / block];
                let step = f64::from(grid.scale[at % block / grid.group_len]).abs();
                let level = |x: f64| grid.value(at % block, grid.nearest(at % block, x as f32));
                let value = level(x);
                undecided[r] |= level(x + 2e-3 * step) != value || level(x - 2e-3 * step) != value;
                if !undecided[r] {
                    compared += 1;
                    assert_eq!(found[at], value, "{}: row {r}, column {k}", format.spec().name);
                }
                let error = (x - f64::from(value)) / row_k[k];
                now[r * n..][..n].iter_mut().zip(&row_k).for_each(|(w, h)| *w -= error * h);
            }
            for i in 0..n {
                let by = inv[i * n + k] / row_k[k];
                inv[i * n..][..n].iter_mut().zip(&row_k).for_each(|(v, h)| *v -= by * h);
            }
        }
        assert!(compared > 2 * n, "{}: {compared} compared", format.spec().name);
    }
}
