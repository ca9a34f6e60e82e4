//! What is to go, as a recipe spells it: `layers=3,8-10`, `layers=auto:2`, `ffn=25%`, `heads=50%`, `experts=25%`.

use crate::{Error, Result};

/// The setting.
pub(super) const NAME: &str = "remove";

/// What is to go.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Parts {
    pub(super) layers: Option<Layers>,
    /// Shares, above 0 and below 1.
    pub(super) ffn: Option<f64>,
    pub(super) heads: Option<f64>,
    pub(super) experts: Option<f64>,
    /// Whether what stays makes up for what goes.
    pub(super) compensate: bool,
}

/// Which blocks go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layers {
    /// These, rising.
    These(Vec<usize>),
    /// So many, those that matter least.
    Auto(usize),
}

impl Parts {
    /// Reads the words of a recipe; `None` if there are none.
    ///
    /// # Errors
    /// Which word is wrong, and what it should be.
    pub fn parse(words: &[String], compensate: bool) -> Result<Option<Parts>> {
        let mut wanted = Parts { compensate, ..Parts::default() };
        for word in words {
            let error = |what: String| Error::setting(NAME, word, what);
            let Some((name, value)) = word.split_once('=') else {
                return Err(error(
                    "needed: layers=LIST, layers=auto:N, ffn=SHARE, heads=SHARE or experts=SHARE".into(),
                ));
            };
            let name = name.trim();
            let part = match name {
                "layers" => None,
                "ffn" => Some(&mut wanted.ffn),
                "heads" => Some(&mut wanted.heads),
                "experts" => Some(&mut wanted.experts),
                other => {
                    let what = format!("{other:?} cannot be removed; known: layers, ffn, heads, experts");
                    return Err(error(what));
                }
            };
            if part.as_ref().map_or(wanted.layers.is_some(), |part| part.is_some()) {
                return Err(error(format!("{name} stands twice; give it once")));
            }
            match part {
                Some(part) => *part = Some(share(value).map_err(error)?),
                None => wanted.layers = Some(layers(value).map_err(error)?),
            }
        }
        Ok((!words.is_empty()).then_some(wanted))
    }

    /// Whether the model has to be run to know what goes or what becomes of the rest.
    pub fn runs(&self) -> bool {
        let listed = matches!(self.layers, None | Some(Layers::These(_)));
        let shares = [self.ffn, self.heads, self.experts];
        self.compensate || !listed || shares.iter().any(Option::is_some)
    }
}

/// `25%` or `0.25`.
fn share(text: &str) -> Result<f64, String> {
    let needed = "needed is a share above 0 and below 100%, such as 25% or 0.25";
    let text = text.trim();
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("{text:?} is no number; {needed}"));
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent)? / 100.0,
        None => number(text)?,
    };
    match share > 0.0 && share < 1.0 {
        true => Ok(share),
        false => Err(needed.to_owned()),
    }
}

fn layers(text: &str) -> Result<Layers, String> {
    let needed = "needed are indices from 0 on with commas and ranges, such as 3,8-10, or auto:2 for a count";
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is no index; {needed}"));
    if let Some(count) = text.trim().strip_prefix("auto:") {
        return match number(count)? {
            0 => Err("auto:0 removes nothing; leave it out, or name a count".to_owned()),
            count => Ok(Layers::Auto(count)),
        };
    }
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        // More blocks than any model has.
        if first > last || last > 1 << 16 {
            return Err(format!("{part:?} is no range; {needed}"));
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    match all.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("layer {} stands twice; name each once", pair[0])),
        None => Ok(Layers::These(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<Parts>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Parts::parse(&words, true).map_err(|e| e.to_string())
    }

    #[test]
    fn words_are_read() {
        let found = parse(&["layers=7,1-3", "ffn=25%", "heads=0.5"]).unwrap().unwrap();
        assert_eq!(found.layers, Some(Layers::These(vec![1, 2, 3, 7])));
        assert_eq!((found.ffn, found.heads, found.experts), (Some(0.25), Some(0.5), None));
        assert_eq!(parse(&["layers=auto:2"]).unwrap().unwrap().layers, Some(Layers::Auto(2)));
        assert_eq!(parse(&[]).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_needed() {
        for (words, said) in [
            (&["ffn"][..], "layers=LIST"),
            (&["width=25%"], "known: layers, ffn, heads, experts"),
            (&["ffn=0"], "above 0 and below 100%"),
            (&["ffn=100%"], "above 0 and below 100%"),
            (&["ffn=1.5"], "above 0 and below 100%"),
            (&["ffn=half"], "is no number"),
            (&["ffn=nan"], "above 0"),
            (&["ffn=25%", "ffn=30%"], "stands twice"),
            (&["layers=auto:0"], "removes nothing"),
            (&["layers=auto:x"], "is no index"),
            (&["layers=2,2"], "layer 2 stands twice"),
            (&["layers=1-3,2"], "layer 2 stands twice"),
            (&["layers=3-1"], "is no range"),
            (&["layers="], "is no index"),
            (&["layers=0-99999999999"], "is no range"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(said) && error.contains("`remove`"), "{words:?}: {error}");
        }
    }
}
