//! How many of each go, so that the rest is a model that readers know: before anything is run.

use super::wanted::{Layers, NAME, Parts};
use crate::model::Model;
use crate::model::cut::{Smaller, period};
use crate::{Error, Result};

/// Channels that blocks of every type divide, if possible.
const SMALL: usize = 32;

/// How much goes of every block.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// What stays; which blocks, as far as that is known.
    pub cut: Smaller,
    /// How heads go.
    pub(super) heads: Heads,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// How heads go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// None do.
    Stay,
    /// So many groups: a key and value head with all its queries.
    Groups(usize),
    /// So many queries of every group.
    Queries(usize),
}

impl Sizes {
    /// `unit`: weights in a block of the type that the matrix after the MLP is to have.
    ///
    /// # Errors
    /// If that much cannot go: what can.
    pub fn of(wanted: &Parts, model: &Model, unit: usize) -> Result<Sizes> {
        let h = &model.hyper;
        let mut cut = Smaller::nothing(model);
        let mut notes = Vec::new();
        let error =
            |name: &str, share: f64, what: String| Error::setting(NAME, format!("{name}={}%", percent(share)), what);
        match &wanted.layers {
            None => {}
            Some(Layers::These(gone)) => {
                let text = || gone.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                let error = |what: String| Error::setting(NAME, format!("layers={}", text()), what);
                if let Some(i) = gone.iter().find(|i| **i >= h.blocks) {
                    return Err(error(format!("there is no layer {i}; the model has layers 0 to {}", h.blocks - 1)));
                }
                cut.blocks.retain(|i| !gone.contains(i));
                if cut.blocks.is_empty() {
                    return Err(error(format!("these are all layers; at least one of {} must stay", h.blocks)));
                }
                notes.push(format!("layers removed: {}; {} of {} stay", text(), cut.blocks.len(), h.blocks));
            }
            Some(Layers::Auto(count)) => {
                let error = |what: String| Error::setting(NAME, format!("layers=auto:{count}"), what);
                if *count >= h.blocks {
                    let most = h.blocks - 1;
                    return Err(error(format!("the model has {} layers, of which at most {most} can go", h.blocks)));
                }
                if let Some(p) = period(h).filter(|p| !count.is_multiple_of(*p)) {
                    let what = format!(
                        "windows repeat every {p} layers and go by index: only {p} layers in a row can go, so the \
                         count must be a multiple of {p}"
                    );
                    return Err(error(what));
                }
                cut.blocks.truncate(h.blocks - count);
                notes.push(format!(
                    "{count} of {} layers are removed: those whose removal changes the predictions least",
                    h.blocks
                ));
            }
        }
        if let Some(share) = wanted.ffn {
            let (kept, unit) = width(h.ffn, share, unit).map_err(|what| error("ffn", share, what))?;
            cut.ffn = kept;
            let whole = match unit {
                1 => String::new(),
                unit => format!(", a multiple of {unit}"),
            };
            notes.push(format!("{kept} of {} channels of every MLP stay{whole}", h.ffn));
        }
        let heads = match wanted.heads {
            Some(share) => heads(h.heads, h.kv_heads, share).map_err(|what| error("heads", share, what))?,
            None => Heads::Stay,
        };
        let each = h.heads / h.kv_heads;
        (cut.heads, cut.kv_heads) = match heads {
            Heads::Stay => (h.heads, h.kv_heads),
            Heads::Groups(gone) => (h.heads - gone * each, h.kv_heads - gone),
            Heads::Queries(gone) => (h.heads - gone * h.kv_heads, h.kv_heads),
        };
        if heads != Heads::Stay {
            let of = (cut.heads, h.heads, cut.kv_heads, h.kv_heads);
            notes.push(format!("{} of {} query heads and {} of {} key-value heads stay", of.0, of.1, of.2, of.3));
        }
        if let Some(share) = wanted.experts {
            let Some(experts) = &h.experts else {
                return Err(error("experts", share, "the model has no experts".to_owned()));
            };
            let gone = (share * experts.count as f64).round() as usize;
            let (count, used) = (experts.count, experts.used);
            if gone == 0 || count - gone < used {
                let what = format!(
                    "{gone} of {count} experts; every token uses {used}, so 1 to {} can go (up to {}%)",
                    count - used,
                    percent((count - used) as f64 / count as f64)
                );
                return Err(error("experts", share, what));
            }
            cut.experts = count - gone;
            notes.push(format!("{} of {count} experts of every layer stay", cut.experts));
        }
        Ok(Sizes { cut, heads, notes })
    }
}

/// A share in percent, without noise.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// How many of `all` channels stay, and what it is a multiple of.
fn width(all: usize, share: f64, unit: usize) -> Result<(usize, usize), String> {
    for unit in [unit, SMALL, 1].into_iter().filter(|unit| all.is_multiple_of(*unit)) {
        let kept = ((1.0 - share) * all as f64 / unit as f64).round() as usize * unit;
        // Of few blocks, a share may be none or all.
        let near = (kept as f64 - (1.0 - share) * all as f64).abs() <= all as f64 / 16.0;
        if (1..all).contains(&kept) && (near || unit == 1) {
            return Ok((kept, unit));
        }
    }
    Err(format!("of {all} channels, that is none or all"))
}

/// Whole groups if they make up the share, else queries of all groups alike.
fn heads(all: usize, groups: usize, share: f64) -> Result<Heads, String> {
    let each = all / groups;
    let whole = |of: usize| {
        let gone = share * of as f64;
        ((gone - gone.round()).abs() < 1e-6 && gone.round() >= 1.0 && (gone.round() as usize) < of)
            .then(|| gone.round() as usize)
    };
    if let Some(gone) = whole(groups) {
        return Ok(Heads::Groups(gone));
    }
    if let Some(gone) = whole(each) {
        return Ok(Heads::Queries(gone));
    }
    let mut shares: Vec<f64> = (1..groups).map(|g| g as f64 / groups as f64).collect();
    shares.extend((1..each).map(|q| q as f64 / each as f64));
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    let possible: Vec<String> = shares.iter().map(|share| format!("{}%", percent(*share))).collect();
    let groups = format!("{groups} key-value heads with {each} query heads each");
    match possible.is_empty() {
        true => Err(format!("the model has {groups}, of which none can go")),
        false => Err(format!(
            "the model has {groups}: whole groups go, or equally many queries of each; possible shares: {}",
            possible.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_whole_blocks_where_that_is_near_the_share() {
        assert_eq!(width(8192, 0.25, 256), Ok((6144, 256)));
        assert_eq!(width(8192, 0.3, 256), Ok((5632, 256)));
        assert_eq!(width(1024, 0.3, 32), Ok((704, 32)));
        // Too narrow for 256: half of 512 would be a bad fifth.
        assert_eq!(width(512, 0.2, 256), Ok((416, 32)));
        assert_eq!(width(96, 0.25, 256), Ok((72, 1)));
        assert_eq!(width(64, 0.25, 32), Ok((48, 1)));
        assert_eq!(width(100, 0.25, 256), Ok((75, 1)));
        assert!(width(10, 0.01, 32).unwrap_err().contains("none or all"));
    }

    #[test]
    fn heads_go_as_groups_or_evenly() {
        assert_eq!(heads(8, 2, 0.5), Ok(Heads::Groups(1)));
        assert_eq!(heads(8, 2, 0.25), Ok(Heads::Queries(1)));
        assert_eq!(heads(12, 12, 0.25), Ok(Heads::Groups(3)));
        assert_eq!(heads(32, 8, 0.125), Ok(Heads::Groups(1)));
        let error = heads(8, 2, 0.3).unwrap_err();
        assert!(error.contains("25%, 50%, 75%"), "{error}");
        assert!(heads(1, 1, 0.5).unwrap_err().contains("none can go"));
    }
}
