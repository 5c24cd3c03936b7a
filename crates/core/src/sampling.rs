//! Which flows are looked at under load. Filters in the kernel choose by the same keyed hash as the
//! engine, so that a flow comes up whole or not at all.

pub use crate::flow::{
    End, FlowKey, HashKey, Hasher, Sampling, SamplingHash, SamplingKey, SamplingLevel,
};
