//! Figures that were made on a sample of the flows, with their standard errors.
//!
//! A flow of which one in w is looked at counts for w (Horvitz and Thompson 1952): the count is
//! right on average, and each flow adds w (w - 1) to its variance.

/// A figure and how far it may be off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Estimate<T> {
    /// The figure.
    pub value: T,
    /// Its standard error in the same unit, rounded up for a count; `None` where nothing was
    /// sampled.
    pub stderr: Option<T>,
}

impl<T> Estimate<T> {
    /// A figure that has an error only where it was `sampled`.
    pub(crate) fn new(value: T, stderr: T, sampled: bool) -> Self {
        Self { value, stderr: sampled.then_some(stderr) }
    }
}

impl Estimate<u64> {
    /// A count that was made at one weight throughout.
    pub(crate) fn weighted(count: u64, weight: u32, sampled: bool) -> Self {
        Self::new(count, rounded_up(stderr(count, weight)), sampled)
    }

    /// A count of flows of several weights, and its variance.
    #[expect(clippy::cast_precision_loss, reason = "an error need not be exact")]
    pub(crate) fn summed(count: u64, variance: u64, sampled: bool) -> Self {
        Self::new(count, rounded_up((variance as f64).sqrt()), sampled)
    }
}

impl<T> From<T> for Estimate<T> {
    /// A figure that was not sampled.
    fn from(value: T) -> Self {
        Self { value, stderr: None }
    }
}

/// Declares a struct that has [`Estimate`]s, and how it is written: each as two numbers, of which
/// `field with key` names the key of the second, its error. Errors stand behind all fields, and
/// only where there are any. `as` gives a field another key than its name.
macro_rules! figures {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $(
                $(#[$doc:meta])*
                pub $field:ident $(as $key:literal)?
                    $(with $stderr:ident: Estimate<$number:ty>)? $(: $type:ty)?,
            )*
        }
    ) => {
        $(#[$about])*
        pub struct $name {
            $($(#[$doc])* pub $field: $($type)? $($crate::model::Estimate<$number>)?,)*
        }

        const _: () = {
            #[derive(serde::Deserialize, serde::Serialize)]
            #[allow(non_snake_case, reason = "keys have the names of states")]
            struct Wire {
                $($(#[serde(rename = $key)])? $field: $($type)? $($number)?,)*
                $($(
                    #[serde(skip_serializing_if = "Option::is_none")]
                    $stderr: Option<$number>,
                )?)*
            }

            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                    let wire = Wire {
                        $($field: $(<$type>::clone(&self.$field))?
                            $(<$number>::clone(&self.$field.value))?,)*
                        $($($stderr: self.$field.stderr,)?)*
                    };
                    wire.serialize(to)
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                    let wire = Wire::deserialize(from)?;
                    Ok(Self {
                        $($field: $(<$type>::from(wire.$field))? $($crate::model::Estimate {
                            value: wire.$field,
                            stderr: wire.$stderr,
                        })?,)*
                    })
                }
            }
        };
    };
}
pub(crate) use figures;

/// The standard error of a count that was made at one weight throughout. One flow more is reckoned
/// with, since none seen need not be none.
#[expect(clippy::cast_precision_loss, reason = "an error need not be exact")]
pub(crate) fn stderr(count: u64, weight: u32) -> f64 {
    ((count as f64 + f64::from(weight)) * f64::from(weight - 1)).sqrt()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
fn rounded_up(error: f64) -> u64 {
    error.ceil() as u64
}
