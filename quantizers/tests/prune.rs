//! Pruning solvers against dense twins in double precision, and against what their papers promise.

use aurora_quantizers::BitMask;
use aurora_quantizers::gptq::{self, Hessian, Order};
use aurora_quantizers::prune::{Scope, Sparsity, exchange, select, wanda};
use ndarray::{Array2, ArrayView2};

/// Pseudo-random numbers, about normal.
fn numbers(n: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..6).map(|_| draw()).sum::<f32>() / 0.7).collect()
}

/// Weights, and E[x x^T] of inputs that are correlated and have channels of very different sizes; one has no input.
fn problem(rows: usize, cols: usize) -> (Array2<f32>, Array2<f32>) {
    let w = Array2::from_shape_vec((rows, cols), numbers(rows * cols, 1)).unwrap();
    let tokens = 4 * cols;
    let (own, shared) = (numbers(tokens * cols, 2), numbers(tokens * 8, 3));
    let mixing = numbers(8 * cols, 4);
    let x = Array2::from_shape_fn((tokens, cols), |(t, c)| {
        let common: f32 = (0..8).map(|k| shared[t * 8 + k] * mixing[k * cols + c]).sum();
        let size = if c == cols / 3 { 0.0 } else { 2.0_f32.powi((c % 7) as i32 - 3) };
        size * (own[t * cols + c] + common)
    });
    let h = x.t().dot(&x) / tokens as f32;
    (w, h)
}

fn loss(w: ArrayView2<f32>, v: ArrayView2<f32>, h: ArrayView2<f32>) -> Vec<f64> {
    let e = (&w - &v).mapv(f64::from);
    let h = h.mapv(f64::from);
    let eh = e.dot(&h);
    (0..e.nrows()).map(|i| eh.row(i).dot(&e.row(i))).collect()
}

fn total(losses: &[f64]) -> f64 {
    losses.iter().sum()
}

fn prepare(h: &Array2<f32>) -> Hessian {
    Hessian::prepare(h.view(), 0.01, Order::Natural).unwrap()
}

/// Gauss-Jordan in double precision.
fn inverse(a: &Array2<f64>) -> Array2<f64> {
    let n = a.nrows();
    let (mut a, mut out) = (a.clone(), Array2::<f64>::eye(n));
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[[*i, k]].abs().total_cmp(&a[[*j, k]].abs())).unwrap();
        for c in 0..n {
            a.swap([k, c], [pivot, c]);
            out.swap([k, c], [pivot, c]);
        }
        let d = a[[k, k]];
        for c in 0..n {
            a[[k, c]] /= d;
            out[[k, c]] /= d;
        }
        for i in (0..n).filter(|i| *i != k) {
            let f = a[[i, k]];
            for c in 0..n {
                let (x, y) = (a[[k, c]], out[[k, c]]);
                a[[i, c]] -= f * x;
                out[[i, c]] -= f * y;
            }
        }
    }
    out
}

/// The paper's algorithm 1, one weight at a time: U the upper Cholesky factor of the inverse, masks in blocks of 128
/// columns (or of a pattern's), W updated in place.
fn sparsegpt(w: &Array2<f32>, h: &Array2<f32>, sparsity: Sparsity) -> (Vec<bool>, Array2<f64>) {
    let (rows, cols) = w.dim();
    let living: Vec<f64> = h.diag().iter().map(|d| f64::from(*d)).filter(|d| *d > 0.0).collect();
    let damping = 0.01 * living.iter().sum::<f64>() / living.len() as f64;
    let mut damped = h.mapv(f64::from);
    damped.diag_mut().iter_mut().for_each(|d| *d += damping);
    let inv = inverse(&damped);
    // inv = U^T U, U upper.
    let mut u = Array2::<f64>::zeros((cols, cols));
    for i in 0..cols {
        for j in i..cols {
            let s: f64 = inv[[i, j]] - (0..i).map(|k| u[[k, i]] * u[[k, j]]).sum::<f64>();
            u[[i, j]] = if i == j { s.sqrt() } else { s / u[[i, i]] };
        }
    }
    let mut v = w.mapv(f64::from);
    let mut stays = vec![true; rows * cols];
    let mut prune = |v: &Array2<f64>, places: Vec<(usize, usize)>, count: usize| {
        let score = |(r, c): (usize, usize)| (v[[r, c]] / u[[c, c]]).powi(2);
        let mut order = places;
        order.sort_by(|a, b| score(*a).total_cmp(&score(*b)).then(a.cmp(b)));
        order[..count].iter().for_each(|(r, c)| stays[r * cols + c] = false);
        stays.clone()
    };
    let mut now = vec![true; rows * cols];
    for c in 0..cols {
        match sparsity {
            Sparsity::Share(_) if c % 128 == 0 => {
                let end = (c + 128).min(cols);
                let count = sparsity.pruned(rows * end) - sparsity.pruned(rows * c);
                now = prune(&v, (0..rows).flat_map(|r| (c..end).map(move |c| (r, c))).collect(), count);
            }
            Sparsity::Pattern { keep, of } if c % of == 0 => {
                for r in 0..rows {
                    now = prune(&v, (c..c + of).map(|c| (r, c)).collect(), of - keep);
                }
            }
            _ => {}
        }
        for r in 0..rows {
            let e = if now[r * cols + c] { 0.0 } else { v[[r, c]] / u[[c, c]] };
            for j in c..cols {
                v[[r, j]] -= e * u[[c, j]];
            }
            if !now[r * cols + c] {
                v[[r, c]] = 0.0;
            }
        }
    }
    (now, v)
}

#[test]
fn sparsegpt_is_the_papers_algorithm() {
    for (rows, cols) in [(5, 30), (37, 128), (37, 132), (16, 264)] {
        let (w, h) = problem(rows, cols);
        let hessian = prepare(&h);
        for sparsity in [Sparsity::Share(0.5), Sparsity::Share(0.7), Sparsity::Pattern { keep: 2, of: 4 }] {
            if !sparsity.divides(cols) {
                continue;
            }
            let (stays, weights) = sparsegpt(&w, &h, sparsity);
            let found = gptq::prune(w.view(), &hessian, sparsity);
            assert_eq!(found.mask.count(), rows * cols - stays.iter().filter(|s| !**s).count());
            // Where two scores are all but equal, rounding may choose the other.
            let other = (0..rows * cols).filter(|i| found.mask.stays(i / cols, i % cols) != stays[*i]).count();
            assert!(other * 200 <= rows * cols, "{sparsity} [{rows}, {cols}]: {other} others");
            let twin = weights.mapv(|x| x as f32);
            let (ours, theirs) =
                (loss(w.view(), found.weights.view(), h.view()), loss(w.view(), twin.view(), h.view()));
            let (ours, theirs) = (total(&ours), total(&theirs));
            assert!((ours / theirs - 1.0).abs() < 1e-4, "{sparsity} [{rows}, {cols}]: {ours} for {theirs}");
            if other == 0 {
                let far = (&found.weights - &twin).mapv(f32::abs).fold(0.0_f32, |a, b| a.max(*b));
                assert!(far < 1e-3, "{sparsity} [{rows}, {cols}]: {far}");
            }
            let stated = total(&found.losses);
            assert!((stated / ours - 1.0).abs() < 1e-4, "{sparsity}: says {stated}, is {ours}");
            for (i, weight) in found.weights.iter().enumerate() {
                assert_eq!(found.mask.stays(i / cols, i % cols), *weight != 0.0, "{i}");
            }
        }
    }
}

/// w' = w H[:, K] (H[K, K] + damping)^-1 of every row.
fn least_squares(w: &Array2<f32>, mask: &BitMask, h: &Array2<f32>, damping: f64) -> Array2<f32> {
    let (rows, cols) = w.dim();
    let h = h.mapv(f64::from);
    let mut out = Array2::zeros((rows, cols));
    for r in 0..rows {
        let kept: Vec<usize> = (0..cols).filter(|c| mask.stays(r, *c)).collect();
        let square = Array2::from_shape_fn((kept.len(), kept.len()), |(i, j)| {
            h[[kept[i], kept[j]]] + if i == j { damping } else { 0.0 }
        });
        let inv = inverse(&square);
        let right: Vec<f64> = kept
            .iter()
            .map(|k| {
                (0..cols).map(|c| f64::from(w[[r, c]]) * h[[c, *k]]).sum::<f64>() + damping * f64::from(w[[r, *k]])
            })
            .collect();
        for (i, k) in kept.iter().enumerate() {
            out[[r, *k]] = right.iter().enumerate().map(|(j, b)| inv[[i, j]] * b).sum::<f64>() as f32;
        }
    }
    out
}

fn norms(h: &Array2<f32>) -> Vec<f32> {
    h.diag().iter().map(|d| d.sqrt()).collect()
}

fn wanda_mask(w: &Array2<f32>, h: &Array2<f32>, sparsity: Sparsity) -> (BitMask, Array2<f32>) {
    let (norms, cols) = (norms(h), w.ncols());
    let scores: Vec<f32> = w.indexed_iter().map(|((_, c), w)| wanda(*w, norms[c])).collect();
    let mask = select(&scores, cols, sparsity, Scope::Row);
    let mut kept = w.clone();
    kept.indexed_iter_mut().for_each(|((r, c), w)| *w = if mask.stays(r, c) { *w } else { 0.0 });
    (mask, kept)
}

#[test]
fn least_squares_are_those_of_the_normal_equations() {
    let (rows, cols) = (19, 64);
    let (w, h) = problem(rows, cols);
    let hessian = prepare(&h);
    let (mask, kept) = wanda_mask(&w, &h, Sparsity::Share(0.5));
    let damping = hessian.prepared().damping * h.diag().sum() as f64 / (cols - 1) as f64;
    let best = least_squares(&w, &mask, &h, damping);
    let mut found = kept.clone();
    let told = gptq::refit(w.view(), &mask, &hessian, 60, found.view_mut());
    let of = |v: &Array2<f32>| total(&loss(w.view(), v.view(), h.view()));
    assert!((of(&found) / of(&best) - 1.0).abs() < 0.01, "{} for {}", of(&found), of(&best));
    assert!(of(&found) < 0.7 * of(&kept));
    assert!(
        (total(&told.after) / of(&found) - 1.0).abs() < 0.01 && (total(&told.before) / of(&kept) - 1.0).abs() < 0.01
    );
    for rounds in 0..8 {
        let mut some = kept.clone();
        let told = gptq::refit(w.view(), &mask, &hessian, rounds, some.view_mut());
        let (before, after) = (loss(w.view(), kept.view(), h.view()), loss(w.view(), some.view(), h.view()));
        for (row, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(*after <= before * 1.0001, "{rounds} rounds, row {row}: {after}, not {before}");
            assert!(told.after[row] <= told.before[row]);
        }
        some.indexed_iter().for_each(|((r, c), v)| assert!(mask.stays(r, c) || *v == 0.0));
    }
}

#[test]
fn methods_are_better_the_more_they_look_at() {
    let (rows, cols) = (64, 256);
    let (w, h) = problem(rows, cols);
    let hessian = prepare(&h);
    for sparsity in [Sparsity::Share(0.5), Sparsity::Share(0.6), Sparsity::Pattern { keep: 2, of: 4 }] {
        let of = |v: &Array2<f32>| total(&loss(w.view(), v.view(), h.view()));
        let plain: Vec<f32> = w.iter().map(|w| w.abs()).collect();
        let mask = select(&plain, cols, sparsity, Scope::Row);
        let mut magnitude = w.clone();
        magnitude.indexed_iter_mut().for_each(|((r, c), w)| *w = if mask.stays(r, c) { *w } else { 0.0 });
        let (_, wanda) = wanda_mask(&w, &h, sparsity);
        let solved = gptq::prune(w.view(), &hessian, sparsity);
        let (mask, mut pulled) = gptq::Admm::prepare(h.view()).unwrap().prune(w.view(), sparsity, 24);
        let raw = of(&pulled);
        assert!(raw < of(&solved.weights), "{sparsity}: {raw}");
        gptq::refit(w.view(), &mask, &hessian, 10, pulled.view_mut());
        let all = [of(&magnitude), of(&wanda), of(&solved.weights), of(&pulled)];
        assert!(all.windows(2).all(|pair| pair[1] < pair[0]), "{sparsity}: {all:?}");
        assert_eq!(mask.count(), rows * (cols - sparsity.pruned(cols)));
    }
}

fn masked(w: &Array2<f32>, mask: &BitMask) -> Array2<f32> {
    let mut v = w.clone();
    v.rows_mut().into_iter().enumerate().for_each(|(i, mut row)| mask.apply(i, row.as_slice_mut().unwrap()));
    v
}

/// How many stay of each row, or of each run of a pattern.
fn counts(mask: &BitMask, sparsity: Sparsity) -> Vec<usize> {
    let run = if let Sparsity::Pattern { of, .. } = sparsity { of } else { mask.cols() };
    let runs = (0..mask.rows()).flat_map(|r| (0..mask.cols()).step_by(run).map(move |c| (r, c)));
    runs.map(|(r, c)| (c..c + run).filter(|c| mask.stays(r, *c)).count()).collect()
}

const KINDS: [Sparsity; 3] = [Sparsity::Share(0.5), Sparsity::Share(0.7), Sparsity::Pattern { keep: 2, of: 4 }];

#[test]
fn exchanges_of_a_mask_lower_the_loss_and_keep_the_counts() {
    let (w, h) = problem(19, 96);
    let norms: Vec<f32> = h.diag().iter().map(|d| d.sqrt()).collect();
    for sparsity in KINDS {
        let scores: Vec<f32> = w.iter().zip(norms.iter().cycle()).map(|(w, n)| wanda(*w, *n)).collect();
        let first = select(&scores, 96, sparsity, Scope::Row);
        for most in [1, 200] {
            let mut mask = first.clone();
            let told = exchange(w.view(), h.view(), sparsity, most, &mut mask);
            let before = loss(w.view(), masked(&w, &first).view(), h.view());
            let after = loss(w.view(), masked(&w, &mask).view(), h.view());
            for (told, found) in [(&told.before, &before), (&told.after, &after)] {
                assert!(told.iter().zip(found).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()), "{sparsity} {most}");
            }
            assert!(after.iter().zip(&before).all(|(after, before)| after <= before));
            assert_eq!(counts(&mask, sparsity), counts(&first, sparsity));
            assert!(told.pairs <= 19 * most && total(&after) < 0.97 * total(&before), "{sparsity} {most}");
        }
    }
    // Two inputs that are the same: pruning two weights that cancel costs nothing, which no score of one weight sees.
    let h = Array2::from_shape_fn((4, 4), |(i, j)| if i == j || i + j == 1 { 1.0 } else { 0.0_f32 });
    let w = Array2::from_shape_vec((1, 4), vec![1.0, -1.0, 0.9, 3.0]).unwrap();
    let mut mask = BitMask::pack(1, 4, &[false, true, false, true]);
    let told = exchange(w.view(), h.view(), Sparsity::Share(0.5), 8, &mut mask);
    assert_eq!((told.after[0], told.pairs), (0.0, 1));
    assert_eq!([0, 1, 2, 3].map(|c| mask.stays(0, c)), [false, false, true, true]);
}

#[test]
fn exchanges_with_least_squares_lower_the_loss_of_every_row_or_leave_it() {
    let (w, h) = problem(37, 160);
    let hessian = prepare(&h);
    let norms: Vec<f32> = h.diag().iter().map(|d| d.sqrt()).collect();
    for sparsity in KINDS {
        let scores: Vec<f32> = w.iter().zip(norms.iter().cycle()).map(|(w, n)| wanda(*w, *n)).collect();
        let mut mask = select(&scores, 160, sparsity, Scope::Row);
        let mut values = masked(&w, &mask);
        gptq::refit(w.view(), &mask, &hessian, 40, values.view_mut());
        let (first, start) = (mask.clone(), values.clone());
        let told = gptq::exchange(w.view(), sparsity, &hessian, 8, &mut mask, values.view_mut());
        let before = loss(w.view(), start.view(), h.view());
        let after = loss(w.view(), values.view(), h.view());
        for (told, found) in [(&told.before, &before), (&told.after, &after)] {
            assert!(told.iter().zip(found).all(|(a, b)| (a - b).abs() <= 2e-3 * b.abs()), "{sparsity}");
        }
        assert!(told.after.iter().zip(&told.before).all(|(after, before)| after <= before));
        assert_eq!(counts(&mask, sparsity), counts(&first, sparsity));
        assert!(values.indexed_iter().all(|((r, c), v)| mask.stays(r, c) || *v == 0.0));
        assert!(told.pairs > 0 && total(&after) < total(&before), "{sparsity}: {}", told.pairs);
    }
}
