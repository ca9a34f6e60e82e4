//! The solver against a slow one that follows the paper to the letter: the explicit inverse, one column after the
//! other, in double precision.

use aurora_quantizers::formats::FORMATS;
use aurora_quantizers::gptq::{Hessian, Order, SolveOptions, Solved, solve};
use aurora_quantizers::{BlockFormat, Grid, NumError, Scales, matrix};

const DAMP: f64 = 0.01;
const ORDERS: [Order; 2] = [Order::Static, Order::Natural];

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

    fn weights(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.normal() * 0.05) as f32).collect()
    }

    /// E[x x^T] of `tokens` inputs that share a few directions, some channels far larger than others.
    fn hessian(&mut self, n: usize, tokens: usize) -> Vec<f32> {
        let shared = 8;
        let size: Vec<f64> = (0..n).map(|_| (self.normal() * 0.7).exp()).collect();
        let mix: Vec<f64> = (0..shared * n).map(|_| self.normal() * 0.6).collect();
        let mut h = vec![0.0; n * n];
        for _ in 0..tokens {
            let source: Vec<f64> = (0..shared).map(|_| self.normal()).collect();
            let x: Vec<f64> = (0..n)
                .map(|i| size[i] * (self.normal() + (0..shared).map(|s| source[s] * mix[s * n + i]).sum::<f64>()))
                .collect();
            for (h, a) in h.chunks_mut(n).zip(&x) {
                for (h, b) in h.iter_mut().zip(&x) {
                    *h += a * b;
                }
            }
        }
        h.iter().map(|v| (v / tokens as f64) as f32).collect()
    }
}

fn formats() -> impl Iterator<Item = &'static dyn BlockFormat> {
    FORMATS.iter().filter_map(|f| f.blocks())
}

/// A width for a format that is no multiple of the solver's panels where the format allows that.
fn width(format: &dyn BlockFormat) -> usize {
    if format.spec().block == 256 { 512 } else { format.spec().block * 5 }
}

fn run(format: &dyn BlockFormat, w: &[f32], h: &Hessian, order: Order, sweeps: usize) -> (Vec<u8>, Solved) {
    let mut out = vec![0; format.spec().bytes_for(w.len()).expect("whole blocks")];
    let solved = solve(format, matrix(w, h.channels()), None, h, SolveOptions { order, sweeps }, &mut out)
        .expect("finite weights");
    (out, solved)
}

/// e H e^T of a row, in double precision.
fn loss(h: &[f32], w: &[f32], values: &[f32]) -> f64 {
    let n = w.len();
    let e: Vec<f64> = w.iter().zip(values).map(|(w, v)| f64::from(*w) - f64::from(*v)).collect();
    (0..n).map(|i| e[i] * h[i * n..][..n].iter().zip(&e).map(|(h, e)| f64::from(*h) * e).sum::<f64>()).sum()
}

fn decode(format: &dyn BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.spec().bytes * format.spec().block];
    format.decode(bytes, &mut out);
    out
}

fn nearest(format: &dyn BlockFormat, w: &[f32], h: &[f32], n: usize) -> Vec<u8> {
    let importance: Vec<f32> = (0..n).map(|i| h[i * n + i]).collect();
    let mut out = vec![0; format.spec().bytes_for(w.len()).expect("whole blocks")];
    format.encode(w, Scales::Search(Some(&importance)), &mut out);
    out
}

/// Gauss-Jordan elimination without pivoting, fit for positive definite matrices.
fn inverse(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut inv = vec![0.0; n * n];
    (0..n).for_each(|i| inv[i * n + i] = 1.0);
    for k in 0..n {
        let pivot = a[k * n + k];
        for j in 0..n {
            a[k * n + j] /= pivot;
            inv[k * n + j] /= pivot;
        }
        let (a_row, inv_row) = (a[k * n..][..n].to_vec(), inv[k * n..][..n].to_vec());
        for i in (0..n).filter(|i| *i != k) {
            let by = a[i * n + k];
            for (a, other) in a[i * n..][..n].iter_mut().zip(&a_row) {
                *a -= by * other;
            }
            for (inv, other) in inv[i * n..][..n].iter_mut().zip(&inv_row) {
                *inv -= by * other;
            }
        }
    }
    inv
}

/// What the paper's algorithm says of one row of codes.
struct Followed {
    /// How much farther a code's value lies from the number that is rounded than the nearest value does, in steps of
    /// the grid: the most over all columns.
    off: f64,
    /// Blocks whose grid is the one that a search finds in the numbers as they are when their turn comes.
    refound: usize,
}

/// Goes through rows as the paper has them: round a column, spread its error over the columns left by the inverse
/// Hessian, take the column out of the inverse. Grids are the solver's, and so is every code once it was looked at:
/// were one other code taken where a number lies on the edge between two, all after it would be another problem's.
fn follow(format: &dyn BlockFormat, w: &[f32], h: &[f32], n: usize, order: Order, ours: &[u8]) -> Vec<Followed> {
    let spec = format.spec();
    let len = spec.block;
    let diagonal: Vec<f32> = (0..n).map(|i| h[i * n + i]).collect();
    let damping = DAMP * diagonal.iter().map(|d| f64::from(*d)).sum::<f64>() / n as f64;
    let mut damped: Vec<f64> = h.iter().map(|v| f64::from(*v)).collect();
    (0..n).for_each(|i| damped[i * n + i] += damping);
    let mut inv = inverse(damped, n);
    let mut visit: Vec<usize> = (0..n).collect();
    if order == Order::Static {
        visit.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
    }
    struct Row {
        x: Vec<f64>,
        grids: Vec<Grid>,
        codes: Vec<i8>,
        followed: Followed,
    }
    let start = |(w, bytes): (&[f32], &[u8])| {
        let mut codes = vec![0; n];
        let blocks = bytes.chunks_exact(spec.bytes).zip(codes.chunks_exact_mut(len));
        let grids = blocks.map(|(block, codes)| format.unpack(block, codes)).collect();
        let x = w.iter().map(|v| f64::from(*v)).collect();
        Row { x, grids, codes, followed: Followed { off: 0.0, refound: 0 } }
    };
    let row_bytes = spec.bytes_for(n).expect("whole blocks");
    let mut rows: Vec<Row> = w.chunks_exact(n).zip(ours.chunks_exact(row_bytes)).map(start).collect();
    for (place, &c) in visit.iter().enumerate() {
        let column: Vec<f64> = inv[c * n..][..n].to_vec();
        for Row { x, grids, codes, followed } in &mut rows {
            let searched = |block: usize, x: &[f64]| {
                let x: Vec<f32> = x[block * len..][..len].iter().map(|v| *v as f32).collect();
                format.fit(&x, &diagonal[block * len..][..len]) == grids[block]
            };
            followed.refound += match order {
                Order::Static if place == 0 => (0..n / len).filter(|block| searched(*block, x)).count(),
                Order::Natural if c % len == 0 => usize::from(searched(c / len, x)),
                _ => 0,
            };
            let (grid, i) = (&grids[c / len], c % len);
            let distance = |code: i8| (x[c] - f64::from(grid.value(i, code))).abs();
            let more = distance(codes[c]) - distance(grid.nearest(i, x[c] as f32));
            let step = f64::from(grid.scale[i / grid.group_len]).abs();
            // On a grid of one value every code is the nearest.
            followed.off = followed.off.max(if step > 0.0 { more / step } else { more });
            let value = f64::from(grid.value(i, codes[c]));
            let error = (x[c] - value) / column[c];
            for (x, inv) in x.iter_mut().zip(&column) {
                *x -= error * inv;
            }
            x[c] = value;
        }
        for i in 0..n {
            let by = column[i] / column[c];
            for (inv, other) in inv[i * n..][..n].iter_mut().zip(&column) {
                *inv -= by * other;
            }
        }
        for k in 0..n {
            // Exactly out of the game: what elimination leaves here is rounding.
            (inv[c * n + k], inv[k * n + c]) = (0.0, 0.0);
        }
    }
    rows.into_iter().map(|row| row.followed).collect()
}

/// Every row, every column: the code is the one that the paper's algorithm takes, but where the number it rounds lies
/// so near the edge between two codes that single precision may fall either way. 512 roundings of numbers ten steps
/// large wander by about sqrt(512) * 2^-24 * 10 = 1.4e-5 steps, and two codes beside an edge differ by twice the
/// distance from it.
#[test]
fn codes_are_those_of_the_paper() {
    const EDGE: f64 = 1e-4;
    for (seed, format) in formats().enumerate() {
        let (n, rows, name) = (width(format), 18, format.spec().name);
        let mut random = Random(seed as u64 + 1);
        let (h, w) = (random.hessian(n, 2 * n), random.weights(rows * n));
        for order in ORDERS {
            let hessian = Hessian::prepare(matrix(&h, n), DAMP, order).expect("positive definite");
            let (out, solved) = run(format, &w, &hessian, order, 0);
            let followed = follow(format, &w, &h, n, order, &out);
            // A row that was left rounded to nearest has other codes.
            let left: Vec<bool> = solved.rows.iter().map(|row| row.solved == row.nearest).collect();
            let solved: Vec<&Followed> =
                followed.iter().zip(&left).filter(|(_, left)| !**left).map(|(f, _)| f).collect();
            for (row, Followed { off, .. }) in solved.iter().enumerate() {
                assert!(*off <= EDGE, "{name} {order:?} row {row}, seed {seed}: a code off by {off} steps");
            }
            let (found, blocks) =
                (solved.iter().map(|f| f.refound).sum::<usize>(), solved.len() * n / format.spec().block);
            assert!(solved.len() + 2 >= rows, "{name} {order:?}: {left:?}");
            // A search decides too: between two nearly equal grids rounding may fall either way.
            let enough = if order == Order::Static { blocks } else { blocks * 9 / 10 };
            assert!(found >= enough, "{name} {order:?}: {found} of {blocks} grids");
        }
    }
}

#[test]
fn no_row_is_worse_than_rounded_to_nearest_and_losses_are_true() {
    for (seed, format) in formats().enumerate() {
        let (n, rows) = (width(format), 70);
        let mut random = Random(seed as u64 + 100);
        let (h, w) = (random.hessian(n, 2 * n), random.weights(rows * n));
        let plain = nearest(format, &w, &h, n);
        for order in ORDERS {
            for sweeps in [0, 3] {
                let hessian = Hessian::prepare(matrix(&h, n), DAMP, order).expect("positive definite");
                let (out, solved) = run(format, &w, &hessian, order, sweeps);
                let name = format.spec().name;
                let (ours, plain) = (decode(format, &out), decode(format, &plain));
                for (row, said) in solved.rows.iter().enumerate() {
                    let part = row * n..(row + 1) * n;
                    let found = loss(&h, &w[part.clone()], &ours[part.clone()]);
                    let by_nearest = loss(&h, &w[part.clone()], &plain[part]);
                    assert!((said.solved - found).abs() <= 1e-4 * by_nearest, "{name} {row}: {said:?}, is {found}");
                    assert!((said.nearest - by_nearest).abs() <= 1e-4 * by_nearest, "{name}: {said:?}, {by_nearest}");
                    assert!(found <= by_nearest * (1.0 + 1e-4), "{name} {order:?} {sweeps}: {found} > {by_nearest}");
                }
                let total = solved.total();
                assert!(total.solved < 0.8 * total.nearest, "{name} {order:?} {sweeps}: {total:?}");
            }
        }
    }
}

#[test]
fn descent_ends_where_no_single_code_can_improve() {
    for format in formats().filter(|f| f.spec().block == 32) {
        let (n, rows) = (96, 5);
        let mut random = Random(7);
        let (h, w) = (random.hessian(n, 300), random.weights(rows * n));
        let hessian = Hessian::prepare(matrix(&h, n), DAMP, Order::Static).expect("positive definite");
        let (before, after) =
            (run(format, &w, &hessian, Order::Static, 0), run(format, &w, &hessian, Order::Static, 100));
        assert!(after.1.total().solved < before.1.total().solved, "{}", format.spec().name);
        let mut codes = vec![0; format.spec().block];
        for (row, w) in w.chunks(n).enumerate() {
            let bytes = &after.0[row * n / 32 * format.spec().bytes..][..n / 32 * format.spec().bytes];
            let values = decode(format, bytes);
            let least = loss(&h, w, &values);
            for (b, block) in bytes.chunks(format.spec().bytes).enumerate() {
                let grid = format.unpack(block, &mut codes);
                for i in 0..32 {
                    for step in [-1, 1] {
                        let value = grid.value(i, codes[i]) + f32::from(step as i8) * grid.scale[0];
                        let code = grid.nearest(i, value);
                        let mut other = values.clone();
                        other[b * 32 + i] = grid.value(i, code);
                        let found = loss(&h, w, &other);
                        assert!(found >= least * (1.0 - 1e-5), "{}: {found} < {least}", format.spec().name);
                    }
                }
            }
        }
    }
}

#[test]
fn a_group_can_be_moved_to_what_the_block_can_store() {
    let mut random = Random(23);
    for format in formats() {
        let spec = format.spec();
        let x = random.weights(spec.block);
        let grid = format.fit(&x, &vec![1.0; spec.block]);
        let codes: Vec<i8> = x.iter().enumerate().map(|(i, x)| grid.nearest(i, *x)).collect();
        for g in 0..spec.block / grid.group_len {
            let (scale, offset) = (grid.scale[g], grid.offset[g]);
            assert_eq!(format.with_group(&grid, g, scale, offset), grid, "{} group {g}: its own", spec.name);
            for (s, o) in [(1.3, 0.8), (0.0, 0.0), (-2.0, -2.0), (1e30, 1e30), (f32::NAN, f32::NAN)] {
                let moved = format.with_group(&grid, g, s * scale, o * offset);
                let others = (0..spec.block / grid.group_len).filter(|other| *other != g);
                others.for_each(|k| assert_eq!((moved.scale[k], moved.offset[k]), (grid.scale[k], grid.offset[k])));
                let (mut block, mut back) = (vec![0; spec.bytes], vec![0; spec.block]);
                format.pack(&moved, &codes, &mut block);
                assert_eq!((format.unpack(&block, &mut back), &back), (moved, &codes), "{} group {g}", spec.name);
            }
            // The nearest is never farther off than what was there, but for the rounding of this subtraction.
            let near = format.with_group(&grid, g, scale * 1.2, offset).scale[g];
            let off = (near - scale * 1.2).abs();
            assert!(off <= (scale * 0.200_001).abs(), "{}: {near} for {}", spec.name, scale * 1.2);
        }
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let mut random = Random(11);
    for format in formats() {
        let (n, rows) = (width(format), 150);
        let (h, w) = (random.hessian(n, n), random.weights(rows * n));
        for order in ORDERS {
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                pool.install(|| {
                    let hessian = Hessian::prepare(matrix(&h, n), DAMP, order).expect("positive definite");
                    run(format, &w, &hessian, order, 2)
                })
            };
            let one = with(1);
            for threads in [2, 7] {
                assert_eq!(with(threads), one, "{} {order:?} {threads} threads", format.spec().name);
            }
            // Nor does it matter what lies beside a row.
            let hessian = Hessian::prepare(matrix(&h, n), DAMP, order).expect("positive definite");
            let alone = run(format, &w[37 * n..38 * n], &hessian, order, 2);
            assert_eq!(alone.1.rows[0], one.1.rows[37]);
            assert_eq!(alone.0, one.0[37 * alone.0.len()..][..alone.0.len()]);
        }
    }
}

fn q8_0() -> &'static dyn BlockFormat {
    formats().find(|f| f.spec().name == "q8_0").expect("a row")
}

#[test]
fn inputs_that_do_not_fill_the_space_are_damped_and_said() {
    let (n, rank) = (96, 10);
    let mut random = Random(3);
    let (h, w) = (random.hessian(n, rank), random.weights(4 * n));
    let hessian = Hessian::prepare(matrix(&h, n), DAMP, Order::Static).expect("damped");
    let prepared = hessian.prepared();
    assert_eq!((prepared.damping, prepared.retries, prepared.dead), (DAMP, 0, 0));
    assert!((n - rank) / 2 < prepared.explained && prepared.explained <= n - rank, "{prepared:?}");
    let (_, solved) = run(q8_0(), &w, &hessian, Order::Static, 3);
    let total = solved.total();
    assert!(total.solved < 0.1 * total.nearest, "ten directions are easily kept: {total:?}");
    // Next to no damping: rounding of H itself makes it indefinite, so damping is raised and said.
    let hessian = Hessian::prepare(matrix(&h, n), 1e-12, Order::Static).expect("damped");
    assert!(hessian.prepared().retries > 0 && hessian.prepared().damping > 1e-12, "{:?}", hessian.prepared());
}

#[test]
fn dead_channels_are_rounded_to_nearest() {
    let n = 64;
    let mut random = Random(5);
    let (mut h, w) = (random.hessian(n, 200), random.weights(3 * n));
    let dead = [0, 5, 40, 63];
    for c in dead {
        for k in 0..n {
            (h[c * n + k], h[k * n + c]) = (0.0, 0.0);
        }
    }
    for order in ORDERS {
        let hessian = Hessian::prepare(matrix(&h, n), DAMP, order).expect("positive definite");
        assert_eq!(hessian.prepared().dead, 4);
        let (out, _) = run(q8_0(), &w, &hessian, order, 3);
        let (values, mut codes) = (decode(q8_0(), &out), vec![0; 32]);
        for (i, block) in out.chunks(q8_0().spec().bytes).enumerate() {
            let grid = q8_0().unpack(block, &mut codes);
            for c in dead.iter().filter(|c| *c / 32 == i % 2) {
                let at = i / 2 * n + c;
                assert_eq!(values[at], grid.value(c % 32, grid.nearest(c % 32, w[at])), "{order:?}, channel {c}");
            }
        }
    }
}

#[test]
fn uncorrelated_inputs_leave_nothing_to_make_up_for() {
    let n = 64;
    let mut random = Random(9);
    let w = random.weights(2 * n);
    let h: Vec<f32> = (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 + (i % 7) as f32 } else { 0.0 }).collect();
    let hessian = Hessian::prepare(matrix(&h, n), DAMP, Order::Static).expect("positive definite");
    // One round: a second would look for better scales.
    let (out, solved) = run(q8_0(), &w, &hessian, Order::Static, 1);
    assert_eq!((solved.kept_nearest, solved.descended), (0, 0));
    assert_eq!(out, nearest(q8_0(), &w, &h, n));
}

#[test]
fn matrices_that_no_inputs_have_are_refused() {
    let n = 32;
    let good = Random(13).hessian(n, 100);
    let with = |edit: &dyn Fn(&mut Vec<f32>)| {
        let mut h = good.clone();
        edit(&mut h);
        Hessian::prepare(matrix(&h, n), DAMP, Order::Static).map(|h| h.prepared())
    };
    assert!(with(&|_| ()).is_ok());
    assert_eq!(with(&|h| h[7] = f32::NAN), Err(NumError::NotFinite { nan: 1, inf: 0, first: 7 }));
    let lower = good[3 * n + 2];
    assert_eq!(
        with(&|h| h[2 * n + 3] = lower + 10.0),
        Err(NumError::NotSymmetric { row: 3, col: 2, lower, upper: lower + 10.0 })
    );
    assert_eq!(
        with(&|h| h[4 * n + 4] = -1.0),
        Err(NumError::NotSemidefinite { channel: 4, found: -1.0, damping: 0.0 })
    );
    // A channel without power that correlates with others.
    assert_eq!(with(&|h| h[4 * n + 4] = 0.0), Err(NumError::NotSemidefinite { channel: 4, found: 0.0, damping: 0.0 }));
    assert_eq!(with(&|h| h.fill(0.0)), Err(NumError::NoActivations { channels: n }));
    // |H_ij| > sqrt(H_ii H_jj), by more than damping of one mean can heal.
    let indefinite = with(&|h| {
        h.fill(0.0);
        (0..n).for_each(|i| h[i * n + i] = 1.0);
        (h[1], h[n]) = (5.0, 5.0);
    });
    assert!(matches!(indefinite, Err(NumError::NotSemidefinite { damping: 1.0, .. })), "{indefinite:?}");
}

#[test]
fn extremes_neither_panic_nor_make_a_row_worse() {
    let n = 64;
    let mut random = Random(17);
    let base = random.hessian(n, 40);
    for scale in [1e-30f32, 1e30] {
        let h: Vec<f32> = base.iter().map(|v| v * scale).collect();
        let hessian = Hessian::prepare(matrix(&h, n), DAMP, Order::Natural).expect("positive definite");
        for size in [0.0f32, 1e-30, 1.0, 1e4] {
            let w: Vec<f32> = random.weights(3 * n).iter().map(|v| v * size).collect();
            for order in ORDERS {
                let (out, solved) = run(q8_0(), &w, &hessian, order, 2);
                assert!(solved.rows.iter().all(|r| r.solved <= r.nearest), "{scale} {size}: {solved:?}");
                assert!(decode(q8_0(), &out).iter().all(|v| v.is_finite()));
            }
        }
    }
    // One channel a billion times stronger than the rest.
    let mut h = base.clone();
    for k in 0..n {
        h[9 * n + k] *= 3e9;
        h[k * n + 9] *= 3e9;
    }
    let hessian = Hessian::prepare(matrix(&h, n), DAMP, Order::Static).expect("positive definite");
    let (_, solved) = run(q8_0(), &random.weights(3 * n), &hessian, Order::Static, 2);
    assert!(solved.rows.iter().all(|r| r.solved <= r.nearest), "{solved:?}");
    let mut w = random.weights(3 * n);
    w[70] = f32::INFINITY;
    let refused = solve(q8_0(), matrix(&w, n), None, &hessian, SolveOptions::default(), &mut vec![0; 3 * 2 * 34]);
    assert_eq!(refused, Err(NumError::NotFinite { nan: 0, inf: 1, first: 70 }));
}
