//! How numbers and words of other crates stand in JSON.

/// A float that may be NaN or infinite: then a string.
pub(crate) mod float {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(f64),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        match x.is_finite() {
            true => s.serialize_f64(*x),
            false => s.serialize_str(&x.to_string()),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        match Either::deserialize(d)? {
            Either::Number(x) => Ok(x),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// [`ops::How`] by its name.
pub(crate) mod how {
    use ops::How;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(how: &Option<How>, s: S) -> Result<S::Ok, S::Error> {
        match how {
            Some(how) => s.collect_str(how),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<How>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        let all = [How::Native, How::Composed, How::Host];
        match text {
            None => Ok(None),
            Some(text) => match all.into_iter().find(|how| how.to_string() == text) {
                Some(how) => Ok(Some(how)),
                None => Err(serde::de::Error::custom(format!("no such way: {text}"))),
            },
        }
    }
}

/// Counts that are usually none are left out.
pub(crate) fn is_zero(n: &u64) -> bool {
    *n == 0
}
