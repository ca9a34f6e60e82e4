//! Sites: linears that share one input, and who could absorb a factor on each of its channels.
//!
//! If the readers of a value multiply column c of their matrices by s_c, the value itself must be divided by s_c, and
//! nothing changes. That is possible only where an earlier parameter makes channel c and nothing else (a norm's
//! factor, a row of a matrix), and where nobody else reads the value. Both follow from the ops, never from names, so
//! they cannot disagree with what runs. AWQ's scales (Lin et al. 2023, section 3.2) move along these edges; GPTQ's and
//! the importance matrix's statistics are those of a site's input.
//!
//! The channels of such a value can also change places, if the rows that make them do. That goes through whatever works
//! on each channel for itself, activations too.

use std::collections::BTreeMap;
use std::ops::Range;

use super::graph::{ModelGraph, Op, ParamId, Slot};

/// One matrix that reads a site's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    /// `[out, in]`, or `[expert, out, in]`.
    pub weight: ParamId,
    /// Which expert's matrix, if there are several. It sees only the tokens that chose it.
    pub expert: Option<usize>,
}

/// Linears that read one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The transformer block; `None` for what comes after the blocks.
    pub block: Option<usize>,
    /// Numbers in a row of the value.
    pub width: usize,
    /// All linears that read it, in the order in which they run.
    pub readers: Vec<Reader>,
    /// Who can take a factor on every channel, or why nobody can.
    pub producer: Result<Producer, String>,
    /// Whose rows have to change places for its channels to change theirs, or why they cannot.
    pub lanes: Result<Movable, String>,
    /// The ops of the block from the first reader to the one with which all that comes of the value is in the residual
    /// stream (or in the logits): the attention or the MLP that the linears belong to, from here on.
    pub reach: Range<usize>,
}

/// The parameters that make a site's value, channel by channel.
#[derive(Debug, Clone, PartialEq)]
pub enum Producer {
    /// Channel c is made by element c of a norm's factor (and of its term): both are multiplied by what channel c is.
    Norm {
        /// Factor per channel.
        weight: ParamId,
        /// Term per channel.
        bias: Option<ParamId>,
    },
    /// Row `rows.start + i` of a matrix (and that element of its bias) makes the site's channels `channels[i]`.
    Rows {
        /// The matrix; a fused one makes other things too, with its other rows.
        weight: ParamId,
        /// Its bias, of the matrix's length.
        bias: Option<ParamId>,
        /// Which expert's matrix.
        expert: Option<usize>,
        /// The rows that count, within the matrix (of that expert).
        rows: Range<usize>,
        /// What each of these rows makes. Usually one channel; of a head of values that serves several query heads, one
        /// in each of them, which then have one factor together.
        channels: Channels,
    },
}

/// Which channels of a value each of some rows makes. Every row one; or, of heads of values that serve several query
/// heads each, one in each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    rows: usize,
    /// Rows of a head.
    run: usize,
    /// Query heads that a head serves.
    served: usize,
}

impl Channels {
    /// Of `rows` rows, one each.
    pub fn each(rows: usize) -> Channels {
        Channels { rows, run: rows, served: 1 }
    }

    /// Of attention's values: `kv_heads` heads of `head_dim` rows, read by `heads` query heads.
    fn of_heads(heads: usize, kv_heads: usize, head_dim: usize) -> Channels {
        Channels { rows: kv_heads * head_dim, run: head_dim, served: heads / kv_heads }
    }

    /// Number of rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Rows of a head, or all.
    pub fn run(self) -> usize {
        self.run
    }

    /// Number of channels.
    pub fn width(self) -> usize {
        self.rows * self.served
    }

    /// What row `row` makes.
    pub fn of(self, row: usize) -> impl ExactSizeIterator<Item = usize> + Clone {
        let (head, i) = (row / self.run, row % self.run);
        (0..self.served).map(move |query| (head * self.served + query) * self.run + i)
    }

    /// What each row makes.
    pub fn groups(self) -> Vec<Vec<usize>> {
        (0..self.rows).map(|row| self.of(row).collect()).collect()
    }
}

/// Rows of a matrix (and as many elements of its bias) that make the channels of a value, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// The matrix.
    pub weight: ParamId,
    /// Its bias, of the matrix's length.
    pub bias: Option<ParamId>,
    /// Which expert's matrix.
    pub expert: Option<usize>,
    /// The rows that count, within the matrix (of that expert).
    pub rows: Range<usize>,
}

/// How the channels of a site can change places: row i of all makers together, and with it the channels `channels[i]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movable {
    /// All matrices that make a channel: of a gated MLP two.
    pub makers: Vec<Maker>,
    /// What row i of each makes. Rows of one head can change places among themselves, and no others.
    pub channels: Channels,
}

impl Producer {
    /// Groups of channels that must have one factor: one group for every element or row.
    pub fn groups(&self, width: usize) -> Vec<Vec<usize>> {
        match self {
            Producer::Norm { .. } => Channels::each(width).groups(),
            Producer::Rows { channels, .. } => channels.groups(),
        }
    }
}

impl ModelGraph {
    /// All sites, block after block, then the output matrix; within a block in the order in which they run.
    pub fn sites(&self) -> Vec<Site> {
        let mut uses = vec![0; self.params.len()];
        let ops = self.embed.iter().chain(self.blocks.iter().flatten()).chain(&self.head);
        ops.flat_map(Op::params).for_each(|id| uses[id.0] += 1);
        let stretch = |ops: &[Op], block| Values::of(ops, self).sites(self, block, &uses);
        let blocks = self.blocks.iter().enumerate().flat_map(|(i, ops)| stretch(ops, Some(i)));
        blocks.chain(stretch(&self.head, None)).collect()
    }
}

/// What one op writes into one slot. Slots are written again and again; a value is written once.
struct Value {
    slot: Slot,
    /// The op that wrote it; `None` if it came from outside the stretch.
    by: Option<usize>,
    /// The ops that read it, in order; one that reads it twice stands twice.
    read_by: Vec<usize>,
    /// Whether something after the stretch reads it.
    leaves: bool,
}

/// A matrix, its bias, and those of its rows that make a value.
type Rows = (ParamId, Option<ParamId>, Range<usize>);

/// One stretch of ops, every slot's successive contents told apart.
struct Values<'g> {
    ops: &'g [Op],
    all: Vec<Value>,
    /// For every op, the values that it reads, as [`Op::reads`] lists them.
    inputs: Vec<Vec<usize>>,
}

impl<'g> Values<'g> {
    fn of(ops: &'g [Op], graph: &ModelGraph) -> Self {
        let mut values = Values { ops, all: Vec::new(), inputs: Vec::new() };
        let mut current: BTreeMap<Slot, usize> = BTreeMap::new();
        for (at, op) in ops.iter().enumerate() {
            let mut inputs = Vec::new();
            for slot in op.reads() {
                let value = *current.entry(slot).or_insert_with(|| values.add(slot, None));
                values.all[value].read_by.push(at);
                inputs.push(value);
            }
            values.inputs.push(inputs);
            for slot in op.writes() {
                let value = values.add(slot, Some(at));
                current.insert(slot, value);
            }
        }
        for slot in [graph.residual, graph.logits] {
            if let Some(&last) = current.get(&slot) {
                values.all[last].leaves = true;
            }
        }
        values
    }

    fn add(&mut self, slot: Slot, by: Option<usize>) -> usize {
        self.all.push(Value { slot, by, read_by: Vec::new(), leaves: false });
        self.all.len() - 1
    }

    fn sites(&self, graph: &ModelGraph, block: Option<usize>, uses: &[usize]) -> Vec<Site> {
        let mut sites = Vec::new();
        let mut seen = vec![false; self.all.len()];
        for (at, op) in self.ops.iter().enumerate() {
            let Op::Linear { .. } = op else { continue };
            let value = self.inputs[at][0];
            if std::mem::replace(&mut seen[value], true) {
                continue;
            }
            let linears: Vec<&Op> = self.readers(value).collect();
            let width = graph.slots[self.all[value].slot.0];
            let experts = linears.iter().find_map(|op| experts(op, graph));
            // What is computed once for each of a token's choices is another value for every expert.
            let each: Vec<Option<usize>> = match experts.filter(|_| self.per_choice(value)) {
                Some(count) => (0..count).map(Some).collect(),
                None => vec![None],
            };
            for only in each {
                let producer = self.producer(value, only, graph, uses);
                let lanes = self.lanes(value, only, graph, uses);
                let readers = expand(&linears, only, graph);
                sites.push(Site { block, width, readers, producer, lanes, reach: self.reach(value, at, graph) });
            }
        }
        sites
    }

    /// The linears whose input is the value.
    fn readers(&self, value: usize) -> impl Iterator<Item = &'g Op> + '_ {
        let linear = move |&at: &usize| matches!(self.ops[at], Op::Linear { .. }) && self.inputs[at][0] == value;
        self.all[value].read_by.iter().copied().filter(linear).map(|at| &self.ops[at])
    }

    /// The ops from `first` on to the last that works on what comes of the value before it is part of the residual
    /// stream.
    fn reach(&self, value: usize, first: usize, graph: &ModelGraph) -> Range<usize> {
        let mut last = first;
        let mut of_it = vec![false; self.all.len()];
        of_it[value] = true;
        for at in first..self.ops.len() {
            if self.inputs[at].iter().any(|&v| of_it[v]) {
                last = at;
                let made = (0..self.all.len()).filter(|&v| self.all[v].by == Some(at));
                made.filter(|&v| self.all[v].slot != graph.residual).for_each(|v| of_it[v] = true);
            }
        }
        first..last + 1
    }

    /// Whether the value has one row for each of a token's choices of experts.
    fn per_choice(&self, value: usize) -> bool {
        let Some(at) = self.all[value].by else { return false };
        match &self.ops[at] {
            Op::Linear { experts, .. } => experts.is_some(),
            Op::Act { .. } | Op::Gate { .. } | Op::Scale { .. } | Op::Norm { .. } => {
                self.per_choice(self.inputs[at][0])
            }
            _ => false,
        }
    }

    /// The op that makes a value which only linears of their own read.
    fn made_for_linears(&self, value: usize, graph: &ModelGraph, uses: &[usize]) -> Result<usize, String> {
        for op in self.readers(value) {
            let Op::Linear { weight, .. } = op else { unreachable!("readers are linears") };
            if uses[weight.0] > 1 {
                return Err(format!("{} is used elsewhere too (a tied embedding)", graph.param(*weight).name));
            }
        }
        let others =
            self.all[value].read_by.iter().map(|&at| &self.ops[at]).find(|op| !matches!(op, Op::Linear { .. }));
        if let Some(op) = others {
            return Err(format!("its input is also read by {}", op.name()));
        }
        match self.all[value].by {
            Some(at) if !self.all[value].leaves => Ok(at),
            _ => Err("its input is the residual stream".to_owned()),
        }
    }

    fn producer(
        &self,
        value: usize,
        expert: Option<usize>,
        graph: &ModelGraph,
        uses: &[usize],
    ) -> Result<Producer, String> {
        let name = |id: ParamId| graph.param(id).name.clone();
        let at = self.made_for_linears(value, graph, uses)?;
        let width = graph.slots[self.all[value].slot.0];
        let found = match &self.ops[at] {
            Op::Norm { weight, bias, .. } if graph.param(*weight).len() == width => {
                Producer::Norm { weight: *weight, bias: *bias }
            }
            Op::Norm { weight, .. } => {
                return Err(format!("{} has one factor for several channels", name(*weight)));
            }
            Op::Attend { out: _, heads, kv_heads, head_dim, .. } => {
                let (weight, bias, rows) = self.rows(self.inputs[at][2], graph)?;
                let channels = Channels::of_heads(*heads, *kv_heads, *head_dim);
                Producer::Rows { weight, bias, expert, rows, channels }
            }
            Op::Gate { .. } => {
                // Not the gate: its activation is not linear.
                let (weight, bias, rows) = self.rows(self.inputs[at][1], graph)?;
                let channels = Channels::each(rows.len());
                Producer::Rows { weight, bias, expert, rows, channels }
            }
            Op::Linear { .. } | Op::Split { .. } | Op::Scale { .. } => {
                let (weight, bias, rows) = self.rows_of(value, graph)?;
                let channels = Channels::each(rows.len());
                Producer::Rows { weight, bias, expert, rows, channels }
            }
            op => return Err(format!("{} lies between it and the parameters that make its input", op.name())),
        };
        let (weight, bias) = match &found {
            Producer::Norm { weight, bias } | Producer::Rows { weight, bias, .. } => (*weight, *bias),
        };
        match std::iter::once(weight).chain(bias).find(|id| uses[id.0] > 1) {
            Some(id) => Err(format!("{}, which makes its input, is used elsewhere too", name(id))),
            None => Ok(found),
        }
    }

    fn lanes(
        &self,
        value: usize,
        expert: Option<usize>,
        graph: &ModelGraph,
        uses: &[usize],
    ) -> Result<Movable, String> {
        let at = self.made_for_linears(value, graph, uses)?;
        let width = graph.slots[self.all[value].slot.0];
        let (rows, channels) = match &self.ops[at] {
            Op::Attend { heads, kv_heads, head_dim, .. } => {
                let rows = vec![self.rows(self.inputs[at][2], graph)?];
                (rows, Channels::of_heads(*heads, *kv_heads, *head_dim))
            }
            Op::Norm { .. } => return Err("the channels of its input are those of the residual stream".to_owned()),
            _ => (self.channelwise(value, graph)?, Channels::each(width)),
        };
        let maker = |(weight, bias, rows)| Maker { weight, bias, expert, rows };
        let makers: Vec<Maker> = rows.into_iter().map(maker).collect();
        // The halves of a fused matrix are two makers of one use.
        match makers.iter().flat_map(|m| std::iter::once(m.weight).chain(m.bias)).find(|id| uses[id.0] > 1) {
            Some(id) => Err(format!("{}, which makes its input, is used elsewhere too", graph.param(id).name)),
            None => Ok(Movable { makers, channels }),
        }
    }

    /// The rows that make `value` through ops that work on every channel for itself.
    fn channelwise(&self, value: usize, graph: &ModelGraph) -> Result<Vec<Rows>, String> {
        let Some(at) = self.all[value].by else { return self.rows_of(value, graph).map(|rows| vec![rows]) };
        let inputs = match &self.ops[at] {
            Op::Gate { .. } | Op::Act { .. } => &self.inputs[at],
            _ => return self.rows_of(value, graph).map(|rows| vec![rows]),
        };
        let mut all = Vec::new();
        for &input in inputs {
            self.read_once(input)?;
            all.extend(self.channelwise(input, graph)?);
        }
        Ok(all)
    }

    /// The rows that make `value`, of which one other op is the only reader.
    fn rows(&self, value: usize, graph: &ModelGraph) -> Result<Rows, String> {
        self.read_once(value)?;
        self.rows_of(value, graph)
    }

    /// Whether one op is the only reader of a value.
    fn read_once(&self, value: usize) -> Result<(), String> {
        match self.all[value].read_by[..] {
            [_, second, ..] => Err(format!("what makes its input is also read by {}", self.ops[second].name())),
            _ => Ok(()),
        }
    }

    fn rows_of(&self, value: usize, graph: &ModelGraph) -> Result<Rows, String> {
        let (slot, by) = (self.all[value].slot, self.all[value].by);
        let Some(at) = by else { return Err("its input comes from the residual stream".to_owned()) };
        match &self.ops[at] {
            Op::Linear { weight, bias, .. } => Ok((*weight, *bias, 0..graph.slots[slot.0])),
            Op::Scale { .. } => self.rows(self.inputs[at][0], graph),
            Op::Split { parts, .. } => {
                let before: usize =
                    parts.iter().take_while(|&&part| part != slot).map(|part| graph.slots[part.0]).sum();
                let (weight, bias, rows) = self.rows(self.inputs[at][0], graph)?;
                let first = rows.start + before;
                Ok((weight, bias, first..first + graph.slots[slot.0]))
            }
            op => Err(format!("{} lies between it and the matrix that makes its input", op.name())),
        }
    }
}

/// How many experts a linear chooses from.
fn experts(op: &Op, graph: &ModelGraph) -> Option<usize> {
    match op {
        Op::Linear { weight, experts: Some(_), .. } => Some(graph.param(*weight).shape[0]),
        _ => None,
    }
}

/// Every matrix of some linears: of those with experts one for each, or that of `only`.
fn expand(linears: &[&Op], only: Option<usize>, graph: &ModelGraph) -> Vec<Reader> {
    let each = |op: &&Op| -> Vec<Reader> {
        let Op::Linear { weight, .. } = op else { unreachable!("readers are linears") };
        match (experts(op, graph), only) {
            (None, _) => vec![Reader { weight: *weight, expert: None }],
            (Some(_), Some(expert)) => vec![Reader { weight: *weight, expert: Some(expert) }],
            (Some(count), None) => (0..count).map(|e| Reader { weight: *weight, expert: Some(e) }).collect(),
        }
    };
    linears.iter().flat_map(each).collect()
}
