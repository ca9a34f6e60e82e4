//! What the options ask of the output.

use regex::Regex;

use super::{SCALES, solves};
use crate::cli::args::Convert;
use crate::export::{Choosing, Request};
use crate::plan;
use crate::{Error, Result};

/// The request that the options make.
pub(super) fn request(args: &Convert) -> Result<Request> {
    let spec = |name: &Option<String>| name.as_deref().map(plan::tensor_type).transpose();
    let tensor_types = args.tensor_type.iter().map(|(pattern, name)| {
        let regex = Regex::new(pattern).map_err(|e| Error::unsupported(e.to_string()))?;
        Ok((regex, plan::tensor_type(name)?))
    });
    let format = &args.format;
    Ok(Request {
        file_type: args.file_type.clone(),
        pure: args.pure,
        output_type: spec(&args.output_type)?,
        embedding_type: spec(&args.embedding_type)?,
        tensor_types: tensor_types.collect::<Result<_>>()?,
        pre: args.pre.clone(),
        bits: format.bits.map(u32::from),
        group_size: format.group_size.map(usize::from),
        symmetric: (format.sym || format.asym).then_some(format.sym),
        shard_size: format.shard_size,
        choosing: Choosing {
            method: solves(args),
            imatrix: args.imatrix.is_some(),
            calibrate: args.calibrate,
            reference: args.scales == SCALES[1],
        },
    })
}
