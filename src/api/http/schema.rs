//! What a type is in JSON, found out by having it read: so that no document can tell something else.
//!
//! A type asks its deserializer for what it wants. This one notes what that is, and gives the plainest value of the kind.
//! What is answered is of types that can be read as well, for this and for the tests.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Map, Value, json};

/// The JSON Schema of what a type reads. What it does not say, such as bounds of texts, the answer to a bad value does.
#[must_use]
pub fn of<T: for<'de> Deserialize<'de>>() -> Value {
    let mut schema = json!({});
    // A type that wants another value than the plainest one has said before what kind it is.
    let _ = T::deserialize(Probe(&mut schema));
    schema
}

/// The JSON Schema of what a type is written as: what is not left out where there is none is always there.
#[must_use]
pub fn of_reply<T: for<'de> Deserialize<'de>>() -> Value {
    let mut schema = of::<T>();
    require(&mut schema);
    schema
}

/// Has objects name the fields that they always have.
fn require(schema: &mut Value) {
    for part in ["items", "additionalProperties"] {
        if let Some(part) = schema.get_mut(part) {
            require(part);
        }
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    properties.values_mut().for_each(require);
    let always = properties.iter().filter(|(_, property)| property["type"].is_string()).map(|(name, _)| name.clone());
    let always: Vec<String> = always.collect();
    schema["required"] = always.into();
}

/// The plainest value was not wanted.
#[derive(Debug)]
struct Unwanted;

impl fmt::Display for Unwanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the value is not wanted")
    }
}

impl std::error::Error for Unwanted {}

impl serde::de::Error for Unwanted {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Notes what is asked of it.
struct Probe<'a>(&'a mut Value);

/// The kinds that are one value.
macro_rules! plain {
    ($($method:ident => $kind:literal, $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unwanted> {
            *self.0 = json!({ "type": $kind });
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Unwanted;

    /// Whatever it is; nothing is said of it. A text is something to all that take several kinds.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unwanted> {
        visitor.visit_borrowed_str("")
    }

    plain! {
        deserialize_bool => "boolean", visit_bool(false);
        deserialize_i32 => "integer", visit_i32(0);
        deserialize_i64 => "integer", visit_i64(0);
        deserialize_u16 => "integer", visit_u16(0);
        deserialize_u32 => "integer", visit_u32(0);
        deserialize_u64 => "integer", visit_u64(0);
        deserialize_f64 => "number", visit_f64(0.0);
        deserialize_str => "string", visit_borrowed_str("");
        deserialize_string => "string", visit_borrowed_str("");
    }

    /// It may be left out, or null, which is the same.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unwanted> {
        let value = visitor.visit_some(Probe(self.0));
        if let Some(kind) = self.0.get("type").and_then(Value::as_str) {
            self.0["type"] = json!([kind, "null"]);
        }
        if let Some(words) = self.0.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
        value
    }

    /// One of some words; those with more to them are no kind of this node's.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unwanted> {
        *self.0 = json!({ "type": "string", "enum": words });
        visitor.visit_enum(StrDeserializer::new(words.first().copied().unwrap_or_default()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unwanted> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unwanted> {
        *self.0 = json!({ "type": "array", "items": {} });
        visitor.visit_seq(One(&mut self.0["items"], true))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unwanted> {
        *self.0 = json!({ "type": "object", "additionalProperties": {} });
        visitor.visit_map(One(&mut self.0["additionalProperties"], true))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unwanted> {
        *self.0 = json!({ "type": "object", "properties": Map::new() });
        visitor.visit_map(Fields { properties: &mut self.0["properties"], left: fields.iter(), field: "" })
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// One item, or one entry of any name.
struct One<'a>(&'a mut Value, bool);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Unwanted;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unwanted> {
        if !std::mem::take(&mut self.1) {
            return Ok(None);
        }
        seed.deserialize(Probe(self.0)).map(Some)
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Unwanted;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unwanted> {
        if !std::mem::take(&mut self.1) {
            return Ok(None);
        }
        seed.deserialize(StrDeserializer::new("name")).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unwanted> {
        seed.deserialize(Probe(self.0))
    }
}

/// Each field once.
struct Fields<'a> {
    properties: &'a mut Value,
    left: std::slice::Iter<'static, &'static str>,
    field: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Unwanted;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unwanted> {
        let Some(field) = self.left.next() else { return Ok(None) };
        self.field = field;
        seed.deserialize(StrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unwanted> {
        let schema = &mut self.properties[self.field];
        *schema = json!({});
        seed.deserialize(Probe(schema))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Wanted {
        some_text: String,
        count: Option<u64>,
        share: f64,
        list: Vec<Inner>,
        names: BTreeMap<String, bool>,
        anything: Value,
        #[serde(rename = "sandboxID")]
        id: Option<String>,
        word: Word,
        other_word: Option<Word>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        #[default]
        First,
        TheSecond,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Inner {
        text: String,
        deep: i32,
    }

    #[test]
    fn the_schema_of_a_type_is_what_it_reads() {
        let inner = json!({ "type": "object", "properties": {
            "text": { "type": "string" }, "deep": { "type": "integer" },
        } });
        assert_eq!(
            of::<Wanted>(),
            json!({ "type": "object", "properties": {
                "someText": { "type": "string" },
                "count": { "type": ["integer", "null"] },
                "share": { "type": "number" },
                "list": { "type": "array", "items": inner },
                "names": { "type": "object", "additionalProperties": { "type": "boolean" } },
                "anything": {},
                "sandboxID": { "type": ["string", "null"] },
                "word": { "type": "string", "enum": ["first", "the_second"] },
                "otherWord": { "type": ["string", "null"], "enum": ["first", "the_second", null] },
            } })
        );
    }

    #[test]
    fn what_a_reply_always_holds_is_required() {
        let schema = of_reply::<Wanted>();
        assert_eq!(schema["required"], json!(["list", "names", "share", "someText", "word"]));
        assert_eq!(schema["properties"]["list"]["items"]["required"], json!(["deep", "text"]));
    }
}
