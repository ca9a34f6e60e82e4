//! `aurora-quant inspect`: what is in a checkpoint, and what one tensor's numbers look like.

use aurora_quantizers::{formats, view};
use ndarray::{Array2, s};
use rayon::prelude::*;
use serde_json::{Value as Json, json};

use super::args::{Common, Inspect};
use super::ui;
use super::zeros::Zeros;
use crate::checkpoint::{self, Config, Packed, TensorInfo, TensorSource};
use crate::error::Misfit;
use crate::gguf::Value;
use crate::model;
use crate::{Error, Result};

/// Runs the command.
pub fn run(args: &Inspect, common: &Common) -> Result<()> {
    let source = checkpoint::open(&args.path)?;
    let source = source.as_ref();
    match &args.tensor {
        Some(name) => one_tensor(source, name, args.below, common),
        None => overview(source, args, common),
    }
}

fn overview(source: &dyn TensorSource, args: &Inspect, common: &Common) -> Result<()> {
    let tensors = source.tensors();
    let sparsity = args.sparsity || args.below.is_some();
    let zeros = |t| zeros(source, t, args.below.unwrap_or(0.0));
    let zeros: Vec<Option<Zeros>> =
        if sparsity { tensors.par_iter().map(zeros).collect::<Result<_>>()? } else { Vec::new() };
    let weights: u64 = tensors.iter().map(elements).sum();
    let bytes: u64 = tensors.iter().map(|t| t.stored_bytes() as u64).sum();
    let bits = if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 };
    let described = model::of_source(source);
    let notes = described.as_ref().map_or(&[][..], |model| &model.notes);
    let metadata = metadata(source.config());
    if common.json {
        let list: Vec<Json> = tensors
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let mut row = json!({ "name": t.name, "shape": t.shape, "type": t.spec.name, "bytes": t.stored_bytes(),
                        "file": source.file_of(t).display().to_string() });
                if let Some(packed) = &t.packed {
                    row["packed"] = packed_json(source, packed);
                }
                if let Some(Some(zeros)) = zeros.get(i) {
                    row["sparsity"] = zeros.json();
                }
                row
            })
            .collect();
        return ui::print_json(&json!({
            "path": source.path().display().to_string(),
            "architecture": described.as_ref().map(|m| m.arch.gguf).ok(),
            "supported": described.is_ok(),
            "problem": described.as_ref().err().map(Error::explain),
            "notes": notes,
            "weights": weights,
            "bytes": bytes,
            "bits_per_weight": bits,
            "metadata": metadata.into_iter().collect::<serde_json::Map<_, _>>(),
            "tensors": list,
        }));
    }
    let mut text = String::new();
    let architecture = match &described {
        Ok(m) => format!("{} ({})", m.arch.title, m.arch.gguf),
        Err(e) => format!("cannot be converted: {}", e.explain()),
    };
    let facts = [
        ("path", source.path().display().to_string()),
        ("architecture", architecture),
        ("weights", format!("{} ({weights})", ui::count(weights))),
        ("tensor data", format!("{} ({bytes} bytes), {bits:.2} bits per weight", ui::size(bytes))),
    ];
    for (key, value) in facts {
        text.push_str(&format!("{key:<14}{value}\n"));
    }
    if sparsity {
        text.push_str(&format!("{:<14}{}\n", "zeros", Zeros::total(zeros.iter().flatten())));
    }
    text.push_str("\nmetadata\n");
    let rows: Vec<_> = metadata.iter().map(|(k, v)| vec![format!("  {}", ui::safe(k)), brief(v)]).collect();
    text.push_str(&ui::table(&rows, &[0, 1]));
    text.push_str(&format!("\n{} tensors\n", tensors.len()));
    let quantised = tensors.iter().any(|t| t.packed.is_some());
    let mut rows: Vec<_> = tensors.iter().map(|t| row(source, t, quantised)).collect();
    if sparsity {
        let heads = Zeros::heads(args.below);
        let cells = |zeros: &Option<Zeros>| zeros.as_ref().map_or(vec![String::new(); heads.len()], Zeros::row);
        rows.iter_mut().zip(&zeros).for_each(|(row, zeros)| row.extend(cells(zeros)));
    }
    if quantised || sparsity {
        let mut head = ["  tensor", "shape", "type", "bytes"].map(str::to_owned).to_vec();
        if quantised {
            head.extend(["bits", "group", "symmetric", "act order"].map(str::to_owned));
        }
        if sparsity {
            head.extend(Zeros::heads(args.below));
        }
        rows.insert(0, head);
    }
    text.push_str(&ui::table(&rows, &[0, 2]));
    ui::notes(common, notes);
    ui::print(&text)
}

/// Counts a tensor's zeros; `None` if its type holds no numbers that can be read.
fn zeros(source: &dyn TensorSource, t: &TensorInfo, threshold: f32) -> Result<Option<Zeros>> {
    if t.packed.is_none() && formats::by_name(t.spec.name).is_none() {
        return Ok(None);
    }
    let mut zeros = Zeros::new(&t.shape, threshold);
    each(source, t, |values| zeros.add(values))?;
    source.release(t, 0..t.range.len());
    Ok(Some(zeros))
}

/// A row in the list of tensors. `quantised`: include the columns for packed matrices.
fn row(source: &dyn TensorSource, t: &TensorInfo, quantised: bool) -> Vec<String> {
    let ty = t.packed.as_ref().map_or(t.spec.name, |packed| packed.method);
    let mut row =
        vec![format!("  {}", ui::safe(&t.name)), ui::shape(&t.shape), ty.to_owned(), t.stored_bytes().to_string()];
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    match &t.packed {
        Some(packed) => row.extend([
            packed.bits.to_string(),
            packed.group().map_or("row".to_owned(), |n| n.to_string()),
            if packed.linear() { yes(packed.survey(source).symmetric()) } else { "-".to_owned() },
            yes(packed.order.is_some()),
        ]),
        None if quantised => row.extend(std::iter::repeat_n(String::new(), 4)),
        None => {}
    }
    row
}

/// How a packed matrix is stored.
fn packed_json(source: &dyn TensorSource, packed: &Packed) -> Json {
    json!({
        "method": packed.method,
        "bits": packed.bits,
        "group": packed.group(),
        "symmetric": packed.linear().then(|| packed.survey(source).symmetric()),
        "act_order": packed.order.is_some(),
        "tensors": packed.parts.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(),
    })
}

fn elements(t: &TensorInfo) -> u64 {
    t.shape.iter().map(|&n| n as u64).product()
}

/// Maximum length of a metadata value in the overview.
const BRIEF: usize = 80;

fn brief(value: &Json) -> String {
    let text = match value {
        Json::String(s) => format!("{s:?}"),
        Json::Array(a) => {
            let first: Vec<_> = a.iter().take(6).map(brief).collect();
            let more = if a.len() > 6 { ", ..." } else { "" };
            format!("[{}{more}] ({} elements)", first.join(", "), a.len())
        }
        other => other.to_string(),
    };
    if text.chars().count() <= BRIEF {
        return text;
    }
    text.chars().take(BRIEF).chain("...".chars()).collect()
}

fn metadata(config: &Config) -> Vec<(String, Json)> {
    match config {
        Config::HuggingFace(c) => c.map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        Config::Gguf(c) => c.metadata.iter().map(|(k, v)| (k.to_owned(), to_json(v))).collect(),
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(a) => Json::Array(a.values.iter().map(to_json).collect()),
    }
}

/// Number of bars in the histogram.
const BINS: usize = 20;
/// Width of the longest bar.
const BAR: usize = 50;

/// Statistics of one tensor's numbers, each a plain formula over all of its finite values.
struct Stats {
    count: u64,
    nan: u64,
    inf: u64,
    zeros: u64,
    min: f32,
    max: f32,
    mean: f64,
    /// sqrt(E[x^2] - E[x]^2).
    std: f64,
    /// E|x|.
    mean_abs: f64,
    /// E[(x - mean)^4] / std^4; 3 for a normal distribution.
    kurtosis: f64,
    bins: [u64; BINS],
}

fn one_tensor(source: &dyn TensorSource, name: &str, below: Option<f32>, common: &Common) -> Result<()> {
    let tensor = source.find(name).ok_or_else(|| no_such_tensor(source, name))?;
    let stats = stats(source, tensor)?;
    let zeros = zeros(source, tensor, below.unwrap_or(0.0))?.expect("its numbers were read");
    if common.json {
        return ui::print_json(&json!({
            "name": tensor.name, "shape": tensor.shape, "type": tensor.spec.name, "bytes": tensor.stored_bytes(),
            "file": source.file_of(tensor).display().to_string(),
            "count": stats.count, "nan": stats.nan, "inf": stats.inf, "zeros": stats.zeros,
            "min": stats.min, "max": stats.max, "mean": stats.mean, "std": stats.std, "mean_abs": stats.mean_abs,
            "kurtosis": stats.kurtosis, "histogram": stats.bins, "sparsity": zeros.json(),
        }));
    }
    let mut text = format!(
        "{}  {}  {}  {} bytes in {}\n",
        ui::safe(&tensor.name),
        ui::shape(&tensor.shape),
        tensor.packed.as_ref().map_or(tensor.spec.name.to_owned(), |packed| packed.describe(source)),
        tensor.stored_bytes(),
        source.file_of(tensor).display()
    );
    text.push_str(&format!(
        "count {}  zeros {}  nan {}  inf {}\n{}\nmin {}  max {}  mean {}  std {}  mean|x| {}  kurtosis {:.2}\n\n",
        stats.count,
        stats.zeros,
        stats.nan,
        stats.inf,
        Zeros::heads(below)
            .iter()
            .zip(zeros.row())
            .skip(1)
            .map(|(h, c)| format!("{h} {c}"))
            .collect::<Vec<_>>()
            .join("  "),
        number(stats.min.into()),
        number(stats.max.into()),
        number(stats.mean),
        number(stats.std),
        number(stats.mean_abs),
        stats.kurtosis
    ));
    let most = stats.bins.iter().copied().max().unwrap_or(0).max(1);
    let width = (f64::from(stats.max) - f64::from(stats.min)) / BINS as f64;
    for (i, n) in stats.bins.iter().enumerate() {
        let bar = "#".repeat((*n as f64 / most as f64 * BAR as f64).round() as usize);
        text.push_str(&format!("{:>12} {:<BAR$} {n}\n", number(f64::from(stats.min) + width * i as f64), bar));
    }
    ui::print(&text)
}

/// Six decimals where they are significant, otherwise an exponent.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x.abs()) { format!("{x:.6}") } else { format!("{x:.4e}") }
}

fn no_such_tensor(source: &dyn TensorSource, name: &str) -> Error {
    let near: Vec<String> =
        source.tensors().iter().map(|t| t.name.as_str()).filter(|t| t.contains(name)).take(8).map(ui::safe).collect();
    let hint = if near.is_empty() {
        "run inspect without `tensor` to list them".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    Error::misfit(source.path(), name, Misfit::Missing, format!("no such tensor; {hint}"))
}

/// Rows of a packed matrix that are decoded together; neighbours share memory.
const PACKED_ROWS: usize = 16;

/// Reads a tensor in runs of whole blocks, calling `f` with the values of each.
fn each(source: &dyn TensorSource, t: &TensorInfo, mut f: impl FnMut(&[f32])) -> Result<()> {
    if let Some(packed) = &t.packed {
        let mut values = Array2::zeros((PACKED_ROWS.min(packed.rows), packed.cols));
        for from in (0..packed.rows).step_by(PACKED_ROWS) {
            let rows: Vec<usize> = (from..(from + PACKED_ROWS).min(packed.rows)).collect();
            let mut values = values.slice_mut(s![..rows.len(), ..]);
            packed.decode(source, &rows, values.view_mut());
            f(view::elements(values.view()));
        }
        return Ok(());
    }
    let format = formats::by_name(t.spec.name).ok_or_else(|| {
        let what = format!("has type {}; statistics need a floating-point or quantised type", t.spec.name);
        Error::misfit(source.file_of(t), &t.name, Misfit::Type { found: t.spec.name.to_owned() }, what)
    })?;
    if let Some(sparse) = &t.sparse {
        let mut dense = vec![0; t.spec.bytes_for(sparse.cols).expect("whole blocks")];
        let mut values = vec![0.0; sparse.cols];
        for row in 0..sparse.rows {
            sparse.read(source, row..row + 1, &mut dense);
            format.decode(&dense, &mut values);
            f(&values);
        }
        return Ok(());
    }
    let run = t.spec.block * 4096usize.div_ceil(t.spec.block);
    let total = elements(t) as usize;
    let mut values = vec![0.0; run.min(total)];
    let mut at = 0;
    while at < total {
        let n = run.min(total - at);
        let bytes = |weights| t.spec.bytes_for(weights).expect("whole blocks");
        format.decode(source.bytes(t, bytes(at)..bytes(at + n)), &mut values[..n]);
        f(&values[..n]);
        at += n;
    }
    Ok(())
}

fn stats(source: &dyn TensorSource, t: &TensorInfo) -> Result<Stats> {
    let mut s = Stats {
        count: elements(t),
        nan: 0,
        inf: 0,
        zeros: 0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        mean: 0.0,
        std: 0.0,
        mean_abs: 0.0,
        kurtosis: 0.0,
        bins: [0; BINS],
    };
    let (mut sum, mut sum_abs) = (0.0, 0.0);
    each(source, t, |values| {
        for &v in values {
            if v.is_nan() {
                s.nan += 1;
            } else if v.is_infinite() {
                s.inf += 1;
            } else {
                s.zeros += u64::from(v == 0.0);
                s.min = s.min.min(v);
                s.max = s.max.max(v);
                sum += f64::from(v);
                sum_abs += f64::from(v.abs());
            }
        }
    })?;
    let finite = s.count - s.nan - s.inf;
    if finite == 0 {
        (s.min, s.max) = (0.0, 0.0);
        return Ok(s);
    }
    s.mean = sum / finite as f64;
    s.mean_abs = sum_abs / finite as f64;
    let (low, range) = (f64::from(s.min), (f64::from(s.max) - f64::from(s.min)).max(f64::MIN_POSITIVE));
    let (mut second, mut fourth) = (0.0, 0.0);
    // A second pass: moments about the mean do not cancel, and the bins need the range.
    each(source, t, |values| {
        for &v in values.iter().filter(|v| v.is_finite()) {
            let d = (f64::from(v) - s.mean).powi(2);
            second += d;
            fourth += d * d;
            s.bins[(((f64::from(v) - low) / range * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
    })?;
    s.std = (second / finite as f64).sqrt();
    s.kurtosis = if second > 0.0 { fourth * finite as f64 / (second * second) } else { 0.0 };
    Ok(s)
}
