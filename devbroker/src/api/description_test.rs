//! Keeps types and interface description in step: samples of every type are checked against the description, both ways.

use super::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A type in Varlink's language.
#[derive(Debug, Clone, PartialEq)]
enum Type {
    Plain(String),
    Maybe(Box<Type>),
    Array(Box<Type>),
    Struct(Vec<(String, Type)>),
    Enum(Vec<String>),
}

#[derive(Debug, Default)]
struct Description {
    types: BTreeMap<String, Type>,
    methods: BTreeMap<String, (Type, Type)>,
    errors: BTreeMap<String, Type>,
}

/// Reads the language: words and the signs `( ) : , ? [] ->`.
struct Reader<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let mut tokens = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut rest = line.trim_start();
            while let Some(first) = rest.chars().next() {
                let end = if rest.starts_with("->") || rest.starts_with("[]") {
                    2
                } else if "():,?".contains(first) {
                    1
                } else {
                    rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
                        .unwrap_or(rest.len())
                };
                assert!(end > 0, "unexpected text: {rest}");
                let (token, after) = rest.split_at(end);
                tokens.push(token);
                rest = after.trim_start();
            }
        }
        Self {
            tokens: tokens.into_iter().peekable(),
        }
    }

    fn take(&mut self) -> &'a str {
        self.tokens.next().expect("the description ends too early")
    }

    fn expect(&mut self, token: &str) {
        assert_eq!(self.take(), token);
    }

    fn named(&mut self) -> String {
        let name = self.take();
        assert!(
            name.starts_with(|c: char| c.is_ascii_alphabetic()),
            "{name} is no name"
        );
        name.to_owned()
    }

    fn a_type(&mut self) -> Type {
        match self.take() {
            "?" => Type::Maybe(Box::new(self.a_type())),
            "[]" => Type::Array(Box::new(self.a_type())),
            "(" => self.in_brackets(),
            name => Type::Plain(name.to_owned()),
        }
    }

    /// After the opening bracket: fields or the words of an enumeration.
    fn in_brackets(&mut self) -> Type {
        let (mut fields, mut words) = (Vec::new(), Vec::new());
        while self.tokens.peek() != Some(&")") {
            let name = self.named();
            if self.tokens.peek() == Some(&":") {
                self.expect(":");
                fields.push((name, self.a_type()));
            } else {
                words.push(name);
            }
            if self.tokens.peek() == Some(&",") {
                self.expect(",");
            }
        }
        self.expect(")");
        assert!(fields.is_empty() || words.is_empty());
        if words.is_empty() {
            Type::Struct(fields)
        } else {
            Type::Enum(words)
        }
    }

    fn description(mut self) -> Description {
        let mut all = Description::default();
        self.expect("interface");
        self.expect("io.devbroker");
        while let Some(word) = self.tokens.next() {
            let name = self.named();
            let old = match word {
                "type" => all.types.insert(name.clone(), self.a_type()).is_some(),
                "error" => all.errors.insert(name.clone(), self.a_type()).is_some(),
                "method" => {
                    let input = self.a_type();
                    self.expect("->");
                    let output = self.a_type();
                    all.methods.insert(name.clone(), (input, output)).is_some()
                }
                other => panic!("unexpected `{other}`"),
            };
            assert!(!old, "{name} is there twice");
        }
        let names = all.types.len() + all.methods.len() + all.errors.len();
        let distinct = all
            .types
            .keys()
            .chain(all.methods.keys())
            .chain(all.errors.keys());
        let distinct: std::collections::BTreeSet<_> = distinct.collect();
        assert_eq!(
            names,
            distinct.len(),
            "types, methods and errors share one space of names"
        );
        all
    }
}

impl Description {
    /// Every value is what the description says, and every field of the description is in the value.
    fn check(&self, place: &str, value: &Value, described: &Type) {
        match described {
            Type::Maybe(inner) => self.check(place, value, inner),
            Type::Array(inner) => {
                let items = value
                    .as_array()
                    .unwrap_or_else(|| panic!("{place} is no array: {value}"));
                assert!(!items.is_empty(), "{place}: the sample holds nothing");
                for item in items {
                    self.check(place, item, inner);
                }
            }
            Type::Struct(fields) => {
                let object = value
                    .as_object()
                    .unwrap_or_else(|| panic!("{place} is no object: {value}"));
                let there: Vec<_> = object.keys().map(String::as_str).collect();
                let mut told: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
                told.sort_unstable();
                assert_eq!(there, told, "fields of {place}");
                for (name, inner) in fields {
                    self.check(&format!("{place}.{name}"), &object[name], inner);
                }
            }
            Type::Enum(words) => {
                let word = value
                    .as_str()
                    .unwrap_or_else(|| panic!("{place} is no word: {value}"));
                assert!(
                    words.iter().any(|w| w == word),
                    "{place}: {word} is not in the description"
                );
            }
            Type::Plain(name) => match name.as_str() {
                "int" => assert!(value.is_i64(), "{place} is no int: {value}"),
                "string" => assert!(value.is_string(), "{place} is no string: {value}"),
                "bool" => assert!(value.is_boolean(), "{place} is no bool: {value}"),
                "object" => assert!(value.is_object(), "{place} is no object: {value}"),
                other => {
                    let inner = self
                        .types
                        .get(other)
                        .unwrap_or_else(|| panic!("{place}: type {other} is not described"));
                    self.check(place, value, inner);
                }
            },
        }
    }

    fn resolve<'a>(&'a self, described: &'a Type) -> &'a Type {
        match described {
            Type::Plain(name) => self.types.get(name).unwrap_or(described),
            Type::Maybe(_) | Type::Array(_) | Type::Struct(_) | Type::Enum(_) => described,
        }
    }

    /// Exactly the fields that may be absent can be left out, at every level.
    fn check_absence<T: Serialize + DeserializeOwned>(&self, sample: &T, described: &Type) {
        let value = serde_json::to_value(sample).unwrap();
        self.absence_at(described, &value, &mut |changed| {
            serde_json::from_value::<T>(changed).is_ok()
        });
    }

    fn absence_at(&self, described: &Type, value: &Value, reads: &mut dyn FnMut(Value) -> bool) {
        match (self.resolve(described), value) {
            (Type::Maybe(inner), value) => self.absence_at(inner, value, reads),
            (Type::Array(inner), Value::Array(items)) => {
                self.absence_at(inner, &items[0], &mut |item| reads(Value::Array(vec![item])));
            }
            (Type::Struct(fields), Value::Object(object)) => {
                for (name, inner) in fields {
                    let without: Map<_, _> = object
                        .iter()
                        .filter(|(key, _)| *key != name)
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    let optional = matches!(inner, Type::Maybe(_));
                    assert_eq!(
                        reads(Value::Object(without)),
                        optional,
                        "leaving out {name} in {value}"
                    );
                    self.absence_at(inner, &object[name], &mut |changed| {
                        let mut object = object.clone();
                        object.insert(name.clone(), changed);
                        reads(Value::Object(object))
                    });
                }
            }
            _ => {}
        }
    }
}

/// One value with every field, by the description's names; written by hand from the description, read by our types.
fn sample(description: &Description, described: &Type) -> Value {
    match description.resolve(described) {
        Type::Maybe(inner) => sample(description, inner),
        Type::Array(inner) => json!([sample(description, inner)]),
        Type::Struct(fields) => fields
            .iter()
            .map(|(name, inner)| {
                (
                    name.clone(),
                    special(name).unwrap_or_else(|| sample(description, inner)),
                )
            })
            .collect::<Map<_, _>>()
            .into(),
        Type::Enum(words) => json!(words[0]),
        Type::Plain(name) => match name.as_str() {
            "int" => json!(7),
            "bool" => json!(true),
            "object" => json!({}),
            _ => json!("x"),
        },
    }
}

/// Strings that are names of a closed type.
fn special(field: &str) -> Option<Value> {
    Some(match field {
        "devnum" => json!("c188:0"),
        "syspath" | "at" => json!("/devices/a"),
        "mode" => json!("0660"),
        "access" => json!("rw"),
        "instance" => json!("0123456789abcdef"),
        "role" => json!("usb_device"),
        _ => return None,
    })
}

/// `sample`, but with containers where the description has a string for one.
fn fitted<T: Serialize + DeserializeOwned>(description: &Description, described: &Type) -> T {
    fn fit(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (name, value) in object.iter_mut() {
                    match (name.as_str(), &*value) {
                        ("container", Value::String(_)) => *value = json!("ctm:scan"),
                        ("containers" | "granted_to" | "suspended" | "applies_to", Value::Array(items))
                            if items[0].is_string() =>
                        {
                            *value = json!(["ctm:scan"]);
                        }
                        _ => fit(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(fit),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = sample(description, described);
    fit(&mut value);
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error} in {value}"))
}

fn description() -> Description {
    Reader::new(DESCRIPTION).description()
}

fn method<M: Method>(description: &Description) {
    let (input, output) = description
        .methods
        .get(M::NAME)
        .unwrap_or_else(|| panic!("method {} is not described", M::NAME));
    let parameters: M = fitted(description, input);
    description.check(M::NAME, &serde_json::to_value(&parameters).unwrap(), input);
    description.check_absence(&parameters, input);
    let reply: M::Reply = fitted(description, output);
    description.check(M::NAME, &serde_json::to_value(&reply).unwrap(), output);
    description.check_absence(&reply, output);
}

#[test]
fn methods() {
    let description = description();
    macro_rules! each {
        ($($name:ident)+) => {
            $(method::<$name>(&description);)+
            let mut tested = vec![$(stringify!($name),)+];
            let mut all = Request::NAMES.to_vec();
            tested.sort_unstable();
            all.sort_unstable();
            assert_eq!(tested, all, "methods tested here and methods there are");
            assert_eq!(all, description.methods.keys().collect::<Vec<_>>());
        };
    }
    each!(GetStatus ListDevices ListAliases ListGrants ListContainers ListEvents Why Plan Attach AttachPid Detach
          AddAlias Register Unregister Sync Reload Monitor);
}

#[test]
fn enumerations() {
    let description = description();
    macro_rules! each {
        ($($name:ident)+) => {
            $(
                let words = $name::ALL.iter().map(|word| {
                    assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
                    word.to_string()
                });
                assert_eq!(
                    description.types.get(stringify!($name)),
                    Some(&Type::Enum(words.collect())),
                    stringify!($name)
                );
            )+
            let described = description.types.values().filter(|t| matches!(t, Type::Enum(_))).count();
            assert_eq!(described, [$(stringify!($name),)+].len());
        };
    }
    each!(ContainerState EventKind FileState NodeState NotFoundKind PresenceState Severity SubjectKind);
}

#[test]
fn errors() {
    let description = description();
    let errors = [
        ApiError::not_found(NotFoundKind::Alias, "x", "no x"),
        ApiError::refused("x"),
        ApiError::failed("x"),
        ApiError::TimedOut { message: "x".into() },
        FrameError::NoCall("x".into()).to_api(),
        FrameError::TooLong.to_api(),
        ApiError::TooManyClients {
            limit: 1,
            message: "x".into(),
        },
    ];
    let mut told = Vec::new();
    for error in errors {
        let frame = error.to_frame();
        let name = frame.error.unwrap();
        let name = name.strip_prefix("io.devbroker.").unwrap().to_owned();
        description.check(
            &name,
            &Value::Object(frame.parameters),
            &description.errors[&name],
        );
        told.push(name);
    }
    told.sort_unstable();
    assert_eq!(told, description.errors.keys().cloned().collect::<Vec<_>>());
}

#[test]
fn every_type_is_used() {
    let description = description();
    let types: Vec<_> = description.types.values().collect();
    let used = format!("{:?} {:?} {types:?}", description.methods, description.errors);
    for name in description.types.keys() {
        assert!(
            used.contains(&format!("Plain({name:?})")),
            "type {name} is described and not used"
        );
    }
}

#[test]
fn parameters_are_named_when_wrong() {
    for (call, error) in [
        (json!({"method": "io.devbroker.Why", "parameters": {}}), "about"),
        (
            json!({"method": "io.devbroker.Why", "parameters": {"about": 1}}),
            "about",
        ),
        (
            json!({"method": "io.devbroker.Why", "parameters": {"about": "x", "verbose": true}}),
            "verbose",
        ),
        (
            json!({"method": "io.devbroker.Attach", "parameters": {"alias": "x", "container": "a:b:c"}}),
            "container",
        ),
        (
            json!({"method": "io.devbroker.Attach", "parameters": {"alias": "../x", "container": "ctm:c"}}),
            "alias",
        ),
    ] {
        let call = CallFrame::parse(call.to_string().as_bytes()).unwrap();
        assert_eq!(
            Request::parse(call).unwrap_err(),
            ApiError::InvalidParameter {
                parameter: error.into()
            }
        );
    }
    let call = |method: &str| CallFrame {
        method: method.into(),
        parameters: None,
        more: false,
        oneway: false,
        upgrade: false,
    };
    assert_eq!(
        Request::parse(call("io.devbroker.Destroy")).unwrap_err(),
        ApiError::MethodNotFound {
            method: "Destroy".into()
        }
    );
    assert_eq!(
        Request::parse(call("com.example.Why")).unwrap_err(),
        ApiError::InterfaceNotFound {
            interface: "com.example".into()
        }
    );
    assert_eq!(
        Request::parse(call("io.devbroker.Monitor")).unwrap_err(),
        ApiError::ExpectedMore {}
    );
    assert_eq!(
        Request::parse(call("io.devbroker.GetStatus")).unwrap(),
        Request::GetStatus(GetStatus {})
    );
}
