//! Whole columns of a matrix that go, and what the others become to make up for them.
//!
//! A matrix W multiplies x; with H = E\[x x^T\] and a wish d for its output (zero, or what the model has lost before),
//! V = W + E\[d x^T\] H^-1 is the best there is. Taking columns P from the best V of the columns that are left costs
//! tr(V_P (\[H^-1\]_PP)^-1 V_P^T), after which V - V_P (\[H^-1\]_PP)^-1 \[H^-1\]_P: is the best of what stays
//! (the optimal brain surgeon, Hassibi & Stork 1993, for several weights of all rows at once). So nothing is ever
//! solved anew: V and H^-1 follow from those before.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::cholesky;
use crate::view::{elements, elements_mut};
use crate::{NumError, par};

/// Times that costs are looked at while columns go one by one: after each, as many go as are due.
const ROUNDS: usize = 16;

/// Damping is raised as long as the factorisation fails, up to this share of the mean diagonal.
const MOST_DAMPING: f64 = 1.0;

/// What a matrix does and should do, and how far columns have gone.
#[derive(Debug, Clone)]
pub struct Columns {
    w: Array2<f32>,
    /// H as it is, without damping.
    h: Array2<f32>,
    /// E\[d x^T\], `[rows, cols]`, and E\[|d|^2\].
    wish: Option<(Array2<f32>, f64)>,
    /// Columns that stay, rising.
    stay: Vec<usize>,
    /// (H + damping)^-1 of these, in their order.
    inverse: Array2<f64>,
    /// Their best values, `[rows, stay]`.
    best: Array2<f64>,
}

impl Columns {
    /// All columns are there. `w`: `[rows, cols]`; `h`: E\[x x^T\], `[cols, cols]`; `wish`: E\[d x^T\],
    /// `[rows, cols]`, and E\[|d|^2\]. `damp`: added to the diagonal of H, as a share of its mean, which draws values
    /// towards those of `w`; doubled until the factorisation succeeds.
    ///
    /// # Errors
    /// [`NumError::NoActivations`] if H is zero, [`NumError::NotSemidefinite`] if no damping helps.
    ///
    /// # Panics
    /// If shapes do not belong together, or rows do not lie [one after the other](crate::view).
    pub fn new(
        w: Array2<f32>,
        h: Array2<f32>,
        wish: Option<(Array2<f32>, f64)>,
        damp: f64,
    ) -> Result<Columns, NumError> {
        let n = w.ncols();
        assert_eq!(h.dim(), (n, n), "a Hessian for the columns");
        assert!(wish.as_ref().is_none_or(|(d, _)| d.dim() == w.dim()), "a wish for the matrix");
        let mean = (0..n).map(|i| f64::from(h[[i, i]])).sum::<f64>() / n as f64;
        if mean <= 0.0 {
            return Err(NumError::NoActivations { channels: n });
        }
        let mut share = damp;
        let lower = loop {
            let mut a = h.mapv(f64::from);
            (0..n).for_each(|i| a[[i, i]] += share * mean);
            match cholesky::factor(a.view_mut()) {
                Ok(()) => break a,
                Err(at) if share >= MOST_DAMPING => {
                    return Err(NumError::NotSemidefinite { channel: at.row, found: at.pivot, damping: share });
                }
                Err(_) => share = (share.max(1e-6) * 2.0).min(MOST_DAMPING),
            }
        };
        let inverse = inverse(lower);
        let mut best = w.mapv(f64::from);
        if let Some((d, _)) = &wish {
            add_product(d.mapv(f64::from).view(), inverse.view(), best.view_mut());
        }
        Ok(Columns { w, h, wish, stay: (0..n).collect(), inverse, best })
    }

    /// Columns that stay, rising.
    pub fn stay(&self) -> &[usize] {
        &self.stay
    }

    /// The best values of what stays, `[rows, stay]`.
    pub fn best(&self) -> Array2<f32> {
        self.best.mapv(|v| v as f32)
    }

    /// What stays as it was, `[rows, stay]`.
    pub fn plain(&self) -> Array2<f32> {
        of_columns(&self.w, &self.stay)
    }

    /// Removes `gone` columns, those that cost least: ||V_j||^2 / \[H^-1\]_jj.
    ///
    /// # Panics
    /// If fewer columns are there.
    pub fn remove(&mut self, gone: usize) {
        assert!(gone < self.stay.len(), "{gone} of {} columns go", self.stay.len());
        for round in 0..ROUNDS {
            let due = gone * (round + 1) / ROUNDS - gone * round / ROUNDS;
            let mut costs: Vec<(f64, usize)> = self.costs().into_iter().zip(0..).collect();
            costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut places: Vec<usize> = costs[..due].iter().map(|(_, place)| *place).collect();
            places.sort_unstable();
            self.take(&places);
        }
    }

    /// Removes all columns of `gone` of the groups, one group after the other, each time the one that costs least.
    /// Returns which, rising.
    ///
    /// # Panics
    /// If there are fewer groups, or a column of a group is not there.
    pub fn remove_groups(&mut self, groups: &[Vec<usize>], gone: usize) -> Vec<usize> {
        assert!(gone <= groups.len(), "{gone} of {} groups go", groups.len());
        let mut chosen = Vec::new();
        for _ in 0..gone {
            let left = (0..groups.len()).filter(|i| !chosen.contains(i));
            let cost = |i: usize| (self.cost(&self.places(&groups[i])), i);
            let least = left.map(cost).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let (_, group) = least.expect("more groups than go");
            self.take(&self.places(&groups[group]));
            chosen.push(group);
        }
        chosen.sort_unstable();
        chosen
    }

    /// E\[|W x + d - V x|^2\] with `values` `[rows, stay]` for V.
    ///
    /// # Panics
    /// If `values` has another shape.
    pub fn loss(&self, values: ArrayView2<'_, f32>) -> f64 {
        assert_eq!(values.dim(), self.best.dim(), "values of what stays");
        let cols = self.w.ncols();
        let each = (0..self.w.nrows()).into_par_iter().map(|row| {
            let mut error: Vec<f64> = self.w.row(row).iter().map(|w| f64::from(*w)).collect();
            self.stay.iter().zip(values.row(row)).for_each(|(c, v)| error[*c] -= f64::from(*v));
            let mut loss = 0.0;
            for (i, e) in error.iter().enumerate().filter(|(_, e)| **e != 0.0) {
                loss += e * self.h.row(i).iter().zip(&error).map(|(h, e)| f64::from(*h) * e).sum::<f64>();
            }
            let wished = self.wish.iter().map(|(d, _)| d.row(row));
            loss + 2.0 * wished.map(|d| (0..cols).map(|c| error[c] * f64::from(d[c])).sum::<f64>()).sum::<f64>()
        });
        // Collected first, because parallel sums have an order of their own.
        let each: Vec<f64> = each.collect();
        each.iter().sum::<f64>() + self.wish.as_ref().map_or(0.0, |(_, square)| *square)
    }

    fn places(&self, columns: &[usize]) -> Vec<usize> {
        columns.iter().map(|c| self.stay.binary_search(c).expect("a column that stays")).collect()
    }

    /// What each column that stays would cost.
    fn costs(&self) -> Vec<f64> {
        let mut squares = vec![0.0; self.stay.len()];
        for row in self.best.rows() {
            squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += v * v);
        }
        squares.iter().enumerate().map(|(i, square)| square / self.inverse[[i, i]]).collect()
    }

    /// What some columns would cost together.
    fn cost(&self, places: &[usize]) -> f64 {
        let solved = self.solved(places);
        let taken = of_columns(&self.best, places);
        let mut all = Array2::zeros(taken.dim());
        add_product(taken.view(), solved.view(), all.view_mut());
        all.iter().zip(&taken).map(|(a, b)| a * b).sum()
    }

    /// (\[H^-1\]_PP)^-1.
    fn solved(&self, places: &[usize]) -> Array2<f64> {
        let mut part = of_columns(&self.inverse.select(Axis(0), places), places);
        cholesky::factor(part.view_mut()).expect("part of the inverse of a damped matrix");
        inverse(part)
    }

    /// Takes columns away; what stays makes up for them. `places`: rising.
    fn take(&mut self, places: &[usize]) {
        if places.is_empty() {
            return;
        }
        let left: Vec<usize> = (0..self.stay.len()).filter(|i| places.binary_search(i).is_err()).collect();
        let across = of_columns(&self.inverse.select(Axis(0), places), &left);
        let mut step = Array2::zeros(across.dim());
        let mut minus = self.solved(places);
        minus.mapv_inplace(|v| -v);
        add_product(minus.view(), across.view(), step.view_mut());
        let taken = of_columns(&self.best, places);
        self.best = of_columns(&self.best, &left);
        add_product(taken.view(), step.view(), self.best.view_mut());
        self.inverse = of_columns(&self.inverse.select(Axis(0), &left), &left);
        add_product(across.t().as_standard_layout().view(), step.view(), self.inverse.view_mut());
        self.stay = left.iter().map(|i| self.stay[*i]).collect();
    }
}

/// Some columns, row after row.
fn of_columns<T: Copy>(a: &Array2<T>, columns: &[usize]) -> Array2<T> {
    Array2::from_shape_fn((a.nrows(), columns.len()), |(i, j)| a[[i, columns[j]]])
}

/// `out += a b`, the same bits for any number of threads. All rows one after the other.
pub fn add_product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, out: ArrayViewMut2<'_, f64>) {
    let (depth, cols) = b.dim();
    assert_eq!((a.ncols(), out.dim()), (depth, (a.nrows(), cols)), "shapes of a product");
    if depth == 0 || cols == 0 {
        return;
    }
    let (a, b) = (elements(a), elements(b));
    let least = par::rows_for(par::CHUNK_WEIGHTS, cols * depth).max(1);
    let rows = elements_mut(out).par_chunks_mut(cols).zip(a.par_chunks(depth)).with_min_len(least);
    rows.for_each(|(out, a)| {
        for (a, b) in a.iter().zip(b.chunks_exact(cols)).filter(|(a, _)| **a != 0.0) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    });
}

/// Columns of a sum that do not wait for each other.
const LANES: usize = 8;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in whole_a.zip(whole_b) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// (L L^T)^-1 of a lower triangle; what is above is not read.
fn inverse(lower: Array2<f64>) -> Array2<f64> {
    let n = lower.nrows();
    // Row j: column j of L^-1, of which the first j are zero.
    let mut columns: Array2<f64> = Array2::zeros((n, n));
    let l = elements(lower.view());
    elements_mut(columns.view_mut()).par_chunks_mut(n.max(1)).enumerate().for_each(|(j, x)| {
        x[j] = 1.0 / l[j * n + j];
        for i in j + 1..n {
            x[i] = -dot(&l[i * n + j..i * n + i], &x[j..i]) / l[i * n + i];
        }
    });
    let x = elements(columns.view());
    let mut out = Array2::zeros((n, n));
    elements_mut(out.view_mut()).par_chunks_mut(n.max(1)).enumerate().for_each(|(i, row)| {
        for (j, v) in row.iter_mut().enumerate() {
            let from = i.max(j);
            *v = dot(&x[i * n + from..(i + 1) * n], &x[j * n + from..(j + 1) * n]);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern.
    fn numbers(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
        let mut state = seed;
        Array2::from_shape_simple_fn((rows, cols), || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 2.0
        })
    }

    /// E[x x^T] of inputs of which neighbours are alike, and the inputs.
    fn inputs(tokens: usize, cols: usize) -> (Array2<f32>, Array2<f32>) {
        let mut x = numbers(tokens, cols, 7);
        for c in 1..cols {
            for t in 0..tokens {
                x[[t, c]] += 0.7 * x[[t, c - 1]];
            }
        }
        (x.t().dot(&x) / tokens as f32, x)
    }

    /// Solves A X = B by elimination with pivots, in double precision: the dense twin.
    fn eliminate(mut a: Array2<f64>, mut b: Array2<f64>) -> Array2<f64> {
        let n = a.nrows();
        for k in 0..n {
            let pivot = (k..n).max_by(|&i, &j| a[[i, k]].abs().total_cmp(&a[[j, k]].abs())).unwrap();
            for c in 0..n {
                a.swap([k, c], [pivot, c]);
            }
            for c in 0..b.ncols() {
                b.swap([k, c], [pivot, c]);
            }
            for i in (0..n).filter(|i| *i != k) {
                let by = a[[i, k]] / a[[k, k]];
                for c in 0..n {
                    a[[i, c]] -= by * a[[k, c]];
                }
                for c in 0..b.ncols() {
                    b[[i, c]] -= by * b[[k, c]];
                }
            }
        }
        for i in 0..n {
            for c in 0..b.ncols() {
                b[[i, c]] /= a[[i, i]];
            }
        }
        b
    }

    /// The normal equations of the survivors: V_K = W_K + (W_P H_PK + D_K) (H_KK + damping)^-1.
    #[test]
    fn what_stays_solves_the_normal_equations() {
        let (rows, cols, damp) = (5, 24, 0.01);
        let (h, x) = inputs(200, cols);
        let w = numbers(rows, cols, 3);
        let d = numbers(200, rows, 11) * 0.3;
        let wish = (d.t().dot(&x) / 200.0, f64::from(d.iter().map(|v| v * v).sum::<f32>()) / 200.0);
        for wish in [None, Some(wish)] {
            let mut columns = Columns::new(w.clone(), h.clone(), wish.clone(), damp).unwrap();
            columns.remove(9);
            let keep = columns.stay().to_vec();
            assert_eq!(keep.len(), 15);
            let mean = (0..cols).map(|i| f64::from(h[[i, i]])).sum::<f64>() / cols as f64;
            let hk = |i: usize, j: usize| f64::from(h[[keep[i], keep[j]]]) + if i == j { damp * mean } else { 0.0 };
            let a = Array2::from_shape_fn((15, 15), |(i, j)| hk(i, j));
            let gone: Vec<usize> = (0..cols).filter(|c| !keep.contains(c)).collect();
            let right = Array2::from_shape_fn((15, rows), |(i, r)| {
                let missed = gone.iter().map(|p| f64::from(w[[r, *p]]) * f64::from(h[[*p, keep[i]]])).sum::<f64>();
                missed + wish.as_ref().map_or(0.0, |(d, _)| f64::from(d[[r, keep[i]]]))
            });
            let solved = eliminate(a, right);
            for (r, row) in columns.best().rows().into_iter().enumerate() {
                for (i, v) in row.iter().enumerate() {
                    let want = f64::from(w[[r, keep[i]]]) + solved[[i, r]];
                    assert!((f64::from(*v) - want).abs() < 1e-5, "[{r}, {i}]: {v}, {want}");
                }
            }
            let (plain, best) = (columns.loss(columns.plain().view()), columns.loss(columns.best().view()));
            assert!(best < plain, "{best} and {plain}");
            // The loss is what it says: over the tokens themselves.
            let zeros = Array2::zeros((200, rows));
            let d = if wish.is_some() { &d } else { &zeros };
            let (y, v) = (x.dot(&w.t()) + d, x.select(Axis(1), &keep).dot(&columns.best().t()));
            let seen = f64::from((y - v).iter().map(|e| e * e).sum::<f32>()) / 200.0;
            assert!((seen - best).abs() < 1e-3 * seen, "{seen} and {best}");
        }
    }

    /// Of a column that repeats another one, nothing is lost; nor of one whose input is always zero.
    #[test]
    fn what_costs_nothing_goes_first() {
        let (_, mut x) = inputs(100, 12);
        for t in 0..100 {
            x[[t, 4]] = 0.0;
            x[[t, 9]] = x[[t, 2]] * 2.0;
        }
        let h = x.t().dot(&x) / 100.0;
        let w = numbers(3, 12, 5);
        let mut columns = Columns::new(w.clone(), h, None, 1e-9).unwrap();
        columns.remove(2);
        let stay = columns.stay();
        assert!(!stay.contains(&4) && stay.contains(&2) != stay.contains(&9), "{stay:?}");
        let best = columns.best();
        let loss = columns.loss(best.view()) / columns.loss(columns.plain().view());
        assert!(loss < 1e-6, "{loss}");
    }

    #[test]
    fn groups_go_whole_and_the_cheapest_first() {
        let (h, _) = inputs(100, 12);
        let mut w = numbers(4, 12, 5);
        for r in 0..4 {
            for c in 6..9 {
                w[[r, c]] *= 1e-3;
            }
        }
        let groups: Vec<Vec<usize>> = (0..4).map(|g| (3 * g..3 * g + 3).collect()).collect();
        let mut columns = Columns::new(w, h, None, 0.01).unwrap();
        let loss = columns.cost(&[6, 7, 8]);
        assert_eq!(columns.remove_groups(&groups, 1), [2]);
        assert_eq!(columns.stay(), [0, 1, 2, 3, 4, 5, 9, 10, 11]);
        // What it costs is what is lost, but for the damping.
        let lost = columns.loss(columns.best().view());
        assert!((loss - lost).abs() < 0.1 * loss, "{loss} and {lost}");
    }

    #[test]
    fn threads_change_no_bit() {
        let (h, _) = inputs(100, 40);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut columns = Columns::new(numbers(9, 40, 1), h.clone(), None, 0.01).unwrap();
                columns.remove(11);
                (columns.best(), columns.loss(columns.best().view()))
            })
        };
        assert_eq!(with(1), with(3));
    }
}
