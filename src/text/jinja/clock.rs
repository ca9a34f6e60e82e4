//! `strftime_now` of a clock that stands still: the same input gives the same text on every day.

use minijinja::Error;

use super::args::fault;

/// The date: Friday, 26 July 2024, which Llama's templates fall back to; midnight, without a time zone.
const YEAR: u32 = 2024;
const DAY_OF_YEAR: u32 = 208;
/// Seconds from the epoch.
const EPOCH: u32 = 1_721_952_000;

/// The date as `format` wants it.
///
/// # Errors
/// If a code is none that Python documents or the GNU library adds.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flag = None;
        let mut code = chars.next();
        while let Some(found @ ('-' | '_' | '^' | '#' | '0')) = code {
            flag = Some(found);
            code = chars.next();
        }
        let field = code.and_then(field);
        let field = field.ok_or_else(|| {
            let code = code.map_or_else(String::new, String::from);
            fault(format!("strftime_now({format:?}): %{code} is no code of a date; see Python's strftime"))
        })?;
        out.push_str(&field.flagged(flag));
    }
    Ok(out)
}

/// A part of a date.
enum Field {
    Text(String),
    /// A number, its width and what fills it.
    Number(u32, usize, char),
}

impl Field {
    fn flagged(self, flag: Option<char>) -> String {
        match (self, flag) {
            (Field::Text(text), Some('^')) => text.to_uppercase(),
            (Field::Text(text), Some('#')) if text.chars().all(|c| !c.is_lowercase()) => text.to_lowercase(),
            (Field::Text(text), Some('#')) => text.to_uppercase(),
            (Field::Text(text), _) => text,
            (Field::Number(number, ..), Some('-')) => number.to_string(),
            (Field::Number(number, width, fill), flag) => {
                let fill = match flag {
                    Some('_') => ' ',
                    Some('0') => '0',
                    _ => fill,
                };
                let digits = number.to_string();
                let missing = width.saturating_sub(digits.len());
                format!("{}{digits}", fill.to_string().repeat(missing))
            }
        }
    }
}

fn field(code: char) -> Option<Field> {
    let text = |text: &str| Some(Field::Text(text.to_owned()));
    let number = |number: u32, width: usize| Some(Field::Number(number, width, '0'));
    match code {
        'a' => text("Fri"),
        'A' => text("Friday"),
        'b' | 'h' => text("Jul"),
        'B' => text("July"),
        'c' => text("Fri Jul 26 00:00:00 2024"),
        'C' => number(YEAR / 100, 2),
        'd' => number(26, 2),
        'D' | 'x' => text("07/26/24"),
        'e' => Some(Field::Number(26, 2, ' ')),
        'f' => number(0, 6),
        'F' => text("2024-07-26"),
        'g' | 'y' => number(YEAR % 100, 2),
        'G' | 'Y' => number(YEAR, 4),
        'H' => number(0, 2),
        'I' => number(12, 2),
        'j' => number(DAY_OF_YEAR, 3),
        'k' => Some(Field::Number(0, 2, ' ')),
        'l' => Some(Field::Number(12, 2, ' ')),
        'm' => number(7, 2),
        'M' | 'S' => number(0, 2),
        'n' => text("\n"),
        'p' => text("AM"),
        'P' => text("am"),
        'r' => text("12:00:00 AM"),
        'R' => text("00:00"),
        's' => number(EPOCH, 1),
        't' => text("\t"),
        'T' | 'X' => text("00:00:00"),
        'u' | 'w' => number(5, 1),
        'U' | 'W' => number(if code == 'U' { 29 } else { 30 }, 2),
        'V' => number(30, 2),
        'z' | 'Z' => text(""),
        '%' => text("%"),
        _ => None,
    }
}
