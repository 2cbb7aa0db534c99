//! Kinds of layers: which sets of parameters a file has, which layers take which, and which do not rotate.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::Reader;
use super::families::{DEPTHS, Every, Family, GlobalLocal, Layers, List, Nope, Sets};
use super::values::{
    Object, missing, numbers, numbers_or_null, object, positive, present, strings, whole, wholes,
};
use crate::config::model::Kinds;
use crate::config::reading::{cut, note};
use crate::config::{LayerKind, LayerRope, ModelRope};
use crate::error::{Result, RopeError};

/// The parameters of a part.
struct Parameters<'a> {
    /// With a label for each kind of layer, or one set without. None: these layers do not rotate.
    sets: Vec<(String, Option<Cow<'a, Object>>)>,
    nested: bool,
}

impl Parameters<'_> {
    /// The set of this label, if there is one. Some(None): layers of this label do not rotate.
    fn of(&self, label: &str) -> Option<Option<&Object>> {
        let own = |(known, _): &&(String, _)| known.is_empty() || known == label;
        let (_, set) = self.sets.iter().find(own)?;
        Some(set.as_deref())
    }
}

/// Kinds that hold no attention that could rotate.
fn is_without_attention(name: &str) -> bool {
    [
        "linear_attention",
        "conv",
        "recurrent",
        "mamba",
        "moe",
        "mlp",
    ]
    .contains(&name)
}

/// Reads a part with one position for each token, or with M-RoPE.
pub(super) fn read(
    file: &Object,
    name: Option<&'static str>,
    family: &'static Family,
) -> Result<Option<ModelRope>> {
    let mut defaulted = Vec::new();
    let count = depth(file, name, family, &mut defaulted)?;
    let parameters = parameters(file, family, count, &mut defaulted)?;
    let mut names = layer_names(file, family, count)?;
    if names.is_empty() && parameters.sets.iter().all(|(label, _)| label.is_empty()) {
        let count = count.unwrap_or(0);
        names = vec!["full_attention".to_owned(); count as usize];
    }
    let rotating = rotating(file, family, &names)?;
    let reader = Reader {
        file,
        name,
        family,
        nested: parameters.nested,
    };
    let is_nope = |set: &Object| {
        family.layers.nope == Nope::NullTheta && set.get("rope_theta").is_some_and(Value::is_null)
    };
    let scaled: Option<HashSet<usize>> = wholes(file, "rope_scaling_layers")?
        .map(|layers| layers.into_iter().map(|layer| layer as usize).collect());
    let still = reader.llama4_scale(&mut defaulted)?;
    let kind_of = |name: &str,
                   rope: Option<LayerRope>,
                   defaulted: &mut Vec<&'static str>|
     -> Result<LayerKind> {
        let query_scale = if rope.is_none() {
            still
        } else {
            let label = label_of(family, name);
            let set = parameters.of(&label).flatten();
            set.map_or(Ok(None), |set| reader.ministral_scale(set, defaulted))?
        };
        Ok(LayerKind {
            name: name.to_owned(),
            rope,
            query_scale,
        })
    };
    let rope = |kind: &str,
                theta: Option<f64>,
                plain: bool,
                defaulted: &mut Vec<&'static str>|
     -> Result<Option<LayerRope>> {
        if is_without_attention(kind) {
            return Ok(None);
        }
        let label = label_of(family, kind);
        match parameters.of(&label) {
            Some(None) => Ok(None),
            Some(Some(set)) if is_nope(set) => Ok(None),
            Some(Some(set)) if plain => {
                let mut unscaled = set.clone();
                unscaled.insert("rope_type".into(), "default".into());
                reader.rope(kind, &unscaled, theta, defaulted).map(Some)
            }
            Some(Some(set)) => reader.rope(kind, set, theta, defaulted).map(Some),
            None => Err(RopeError::config(
                "rope_parameters",
                format!("must have an entry for the layer type {kind}"),
                "none",
            )),
        }
    };

    let mut kinds = Kinds::default();
    let mut layers = Vec::new();
    // A file may have many layers: each kind is read once.
    let mut known = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        let turn = rotating.get(index).copied().unwrap_or(Turn::Yes);
        let plain = scaled
            .as_ref()
            .is_some_and(|scaled| !scaled.contains(&index));
        let key = (name, turn.key(), plain);
        let kind = match known.get(&key) {
            Some(&kind) => kind,
            None => {
                let rope = match turn {
                    Turn::No => None,
                    Turn::Theta(theta) => rope(name, Some(theta), plain, &mut defaulted)?,
                    Turn::Yes => rope(name, None, plain, &mut defaulted)?,
                };
                let kind = kinds.add(kind_of(name, rope, &mut defaulted)?)?;
                known.insert(key, kind);
                kind
            }
        };
        layers.push(kind);
    }
    // Sets that no listed layer takes, and labels that are no layer types, can be chosen all the same.
    for (label, _) in &parameters.sets {
        let name = if label.is_empty() {
            "full_attention"
        } else {
            label
        };
        let is_there = names.iter().any(|known| known == name);
        if !is_there && (!label.is_empty() || names.is_empty()) {
            let rope = rope(name, None, false, &mut defaulted)?;
            kinds.add(kind_of(name, rope, &mut defaulted)?)?;
        }
    }
    Ok(kinds.finish(&mut layers).map(|kinds| ModelRope {
        family: name.filter(|_| family.is_known()),
        defaulted,
        kinds,
        layers,
    }))
}

/// The label of the set that a kind of layer takes.
fn label_of(family: &Family, kind: &str) -> String {
    match (family.sets, kind) {
        (Sets::DeepSeekV4, "sliding_attention") => "main",
        (Sets::DeepSeekV4, "compressed_sparse_attention" | "heavily_compressed_attention") => {
            "compress"
        }
        _ => kind,
    }
    .to_owned()
}

fn empty() -> Object {
    Map::new()
}

/// The labels of a set of sets: keys with objects, or with a null where a layer type is named.
fn labels(set: &Object) -> Vec<&String> {
    let is_label = |(key, value): &(&String, &Value)| {
        value.is_object() || (value.is_null() && key.ends_with("_attention"))
    };
    set.iter().filter(is_label).map(|(key, _)| key).collect()
}

fn parameters<'a>(
    file: &'a Object,
    family: &Family,
    count: Option<u32>,
    defaulted: &mut Vec<&'static str>,
) -> Result<Parameters<'a>> {
    let newer = object(file, "rope_parameters")?.filter(|set| !set.is_empty());
    let older = object(file, "rope_scaling")?.filter(|set| !set.is_empty());
    let flat = |set: Cow<'a, Object>| Parameters {
        sets: vec![(String::new(), Some(set))],
        nested: false,
    };
    // Where one form holds what the other is for, the older one counts, as transformers has it.
    let given = match family.sets {
        Sets::NestedOnly | Sets::GlobalLocal(_) => newer,
        _ => older.or(newer),
    };
    if let Some(set) = given {
        let found = labels(set);
        if !found.is_empty() {
            let sets = found.into_iter().map(|label| {
                let set = set.get(label).and_then(Value::as_object);
                (label.clone(), set.map(Cow::Borrowed))
            });
            let mut sets: Vec<_> = sets.collect();
            if let Sets::GlobalLocal(rule) = family.sets {
                complete(file, rule, &mut sets, defaulted)?;
            }
            return Ok(Parameters { sets, nested: true });
        }
    }
    match family.sets {
        Sets::GlobalLocal(rule) => {
            if let Some(set) = given {
                return shared(file, rule, older.unwrap_or(set), defaulted);
            }
            let set = |scales: bool| {
                let older = older.filter(|_| scales);
                Some(older.map_or_else(|| Cow::Owned(empty()), Cow::Borrowed))
            };
            let mut sets = vec![
                ("full_attention".to_owned(), set(true)),
                ("sliding_attention".to_owned(), set(rule.scales_both)),
            ];
            complete(file, rule, &mut sets, defaulted)?;
            Ok(Parameters { sets, nested: true })
        }
        Sets::DeepSeekV4 => {
            let mut main = empty();
            if let Some(theta) = present(file, "rope_theta") {
                main.insert("rope_theta".into(), theta.clone());
            }
            let mut compress = given.cloned().unwrap_or_else(empty);
            let theta = match positive(file, "compress_rope_theta")? {
                Some(theta) => theta,
                None => {
                    note(defaulted, "compress_rope_theta");
                    160_000.0
                }
            };
            compress.insert("rope_theta".into(), theta.into());
            Ok(Parameters {
                sets: vec![
                    ("main".into(), Some(Cow::Owned(main))),
                    ("compress".into(), Some(Cow::Owned(compress))),
                ],
                nested: true,
            })
        }
        Sets::PerLayer if present(file, "rope_theta").is_some_and(Value::is_array) => {
            per_layer(file, family, count, older)
        }
        _ => match (given, family.defaults) {
            (Some(set), _) => Ok(flat(Cow::Borrowed(set))),
            (None, Some(text)) => {
                note(defaulted, "rope_parameters");
                let set: Value = serde_json::from_str(text)
                    .map_err(|error| RopeError::config("rope_parameters", "must be JSON", error))?;
                let set = set.as_object().cloned().unwrap_or_else(empty);
                if labels(&set).is_empty() {
                    return Ok(flat(Cow::Owned(set)));
                }
                let sets = set.into_iter().map(|(label, set)| {
                    let set = set.as_object().cloned().map(Cow::Owned);
                    (label, set)
                });
                Ok(Parameters {
                    sets: sets.collect(),
                    nested: true,
                })
            }
            (None, None) => Ok(flat(Cow::Owned(empty()))),
        },
    }
}

/// One set of the newer form for both kinds: what transformers 5 makes of a file whose class knows of one theta only.
fn shared<'a>(
    file: &Object,
    rule: GlobalLocal,
    set: &'a Object,
    defaulted: &mut Vec<&'static str>,
) -> Result<Parameters<'a>> {
    let local = rule.local_key.filter(|_| rule.shares_set);
    if local.and_then(|key| present(file, key)).is_none() {
        return Err(RopeError::config(
            "rope_parameters",
            "must have a set for full_attention and one for sliding_attention",
            "one for both",
        ));
    }
    let mut sliding = set.clone();
    // The theta is that of the full layers.
    sliding.remove("rope_theta");
    let mut sets = vec![
        ("full_attention".to_owned(), Some(Cow::Borrowed(set))),
        ("sliding_attention".to_owned(), Some(Cow::Owned(sliding))),
    ];
    complete(file, rule, &mut sets, defaulted)?;
    Ok(Parameters { sets, nested: true })
}

/// Gives both sets of a family that has two their thetas.
fn complete(
    file: &Object,
    rule: GlobalLocal,
    sets: &mut Vec<(String, Option<Cow<'_, Object>>)>,
    defaulted: &mut Vec<&'static str>,
) -> Result<()> {
    let mut full = None;
    for (label, key, default) in [
        ("full_attention", Some(rule.global_key), rule.global),
        ("sliding_attention", rule.local_key, rule.local),
    ] {
        let at = match sets.iter().position(|(known, _)| known == label) {
            Some(at) => at,
            None => {
                sets.push((label.to_owned(), None));
                sets.len() - 1
            }
        };
        // A set that is null or missing is the default one here.
        let mut set = sets[at].1.take().map_or_else(empty, Cow::into_owned);
        if positive(&set, "rope_theta")?.is_none() {
            let own = match key {
                // The full layers come first.
                Some(key) if rule.null_is_global && file.get(key).is_some_and(Value::is_null) => {
                    full
                }
                Some(key) => positive(file, key)?,
                None => None,
            };
            if own.is_none() {
                note(defaulted, key.unwrap_or("rope_theta"));
            }
            set.insert("rope_theta".into(), own.unwrap_or(default).into());
        }
        full = full.or(positive(&set, "rope_theta")?);
        sets[at].1 = Some(Cow::Owned(set));
    }
    Ok(())
}

/// Lists with an entry for each layer: the first layer of each type decides.
fn per_layer<'a>(
    file: &Object,
    family: &Family,
    count: Option<u32>,
    older: Option<&Object>,
) -> Result<Parameters<'a>> {
    let thetas = numbers(file, "rope_theta")?.ok_or_else(|| missing("rope_theta"))?;
    let parts = numbers(file, "partial_rotary_factors")?;
    let mut names = layer_names(file, family, count)?;
    if names.is_empty() {
        names = vec!["full_attention".into()];
    }
    let mut sets: Vec<(String, Option<Cow<'a, Object>>)> = Vec::new();
    let mut known = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        if !known.insert(name) {
            continue;
        }
        let theta = thetas.get(index).ok_or_else(|| {
            RopeError::config(
                "rope_theta",
                "must have an entry for each layer",
                thetas.len(),
            )
        })?;
        let mut set = empty();
        set.insert("rope_theta".into(), (*theta).into());
        if let Some(part) = parts.as_ref().and_then(|parts| parts.get(index)) {
            set.insert("partial_rotary_factor".into(), (*part).into());
        }
        if let Some(older) = older.filter(|_| name == "full_attention") {
            set.extend(older.clone());
        }
        sets.push((name.clone(), Some(Cow::Owned(set))));
    }
    Ok(Parameters { sets, nested: true })
}

/// How many layers there are: said, as long as a list that has an entry for each, or as many as the class of a family whose layers
/// differ.
fn depth(
    file: &Object,
    name: Option<&str>,
    family: &Family,
    defaulted: &mut Vec<&'static str>,
) -> Result<Option<u32>> {
    if let Some(count) = super::layer_count(file)? {
        return Ok(Some(count));
    }
    let class = DEPTHS
        .iter()
        .find(|(names, _)| name.is_some_and(|name| names.contains(&name)));
    let Some(&(_, count)) = class else {
        return Ok(None);
    };
    let own = family.layers.list.and_then(List::of_each);
    let keys = [
        "layer_types",
        "no_rope_layers",
        "layer_rope_theta",
        "compress_ratios",
    ];
    for key in keys.into_iter().chain(own) {
        let listed = present(file, key).and_then(Value::as_array).map(Vec::len);
        if let Some(listed) = listed.filter(|listed| *listed > 0) {
            return u32::try_from(listed)
                .map(Some)
                .map_err(|_| RopeError::overflow(key, "entries must fit u32"));
        }
    }
    note(defaulted, "num_hidden_layers");
    Ok(Some(count))
}

/// A list with an entry for each layer. A longer list is cut: what follows are extra layers that predict further tokens (Step 3.5).
fn for_each<T>(key: &'static str, mut list: Vec<T>, count: Option<u32>) -> Result<Vec<T>> {
    let Some(count) = count else { return Ok(list) };
    if list.len() < count as usize {
        return Err(RopeError::config(
            key,
            format!("must have an entry for each of {count} layers"),
            list.len(),
        ));
    }
    list.truncate(count as usize);
    Ok(list)
}

/// The type of every layer: listed, or by the family's rule; none where neither says.
fn layer_names(file: &Object, family: &Family, count: Option<u32>) -> Result<Vec<String>> {
    let Layers {
        other, every, list, ..
    } = family.layers;
    // The second is what Zamba2 and Granite's hybrids called the first.
    for key in ["layer_types", "layers_block_type"] {
        let Some(names) = strings(file, key)?.filter(|names| !names.is_empty()) else {
            continue;
        };
        let mut names = for_each(key, names, count)?;
        if let (Some(last), true) = (names.last_mut(), every.is_some_and(|rule| rule.ends_full)) {
            "full_attention".clone_into(last);
        }
        return Ok(names);
    }
    let named = |is_full: bool| if is_full { "full_attention" } else { other }.to_owned();
    if let Some(List::Flags { key, full }) = list {
        if let Some(flags) = wholes(file, key)?.filter(|flags| !flags.is_empty()) {
            let flags = for_each(key, flags, count)?;
            return Ok(flags.into_iter().map(|flag| named(flag == full)).collect());
        }
    }
    let Some(count) = count else {
        return Ok(Vec::new());
    };
    if family.sets == Sets::DeepSeekV4 {
        let (sparse, heavy) = (
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        );
        let ratios = wholes(file, "compress_ratios")?;
        let name = |layer: u32| match ratios.as_ref().map(|ratios| ratios.get(layer as usize)) {
            Some(Some(0)) => "sliding_attention",
            Some(Some(128)) => heavy,
            Some(_) => sparse,
            None if layer < 2 || layer % 2 == 1 => heavy,
            None => sparse,
        };
        return Ok((0..count).map(|layer| name(layer).to_owned()).collect());
    }
    if let Nope::Listed { rotating } = family.layers.nope {
        let flags = rope_flags(file, count)?;
        let name = |&rotates: &bool| if rotates { rotating } else { "full_attention" };
        return Ok(flags
            .iter()
            .map(|rotates| name(rotates).to_owned())
            .collect());
    }
    match list {
        Some(List::Indices(key)) => {
            if let Some(full) = wholes(file, key)? {
                if let Some(past) = full.iter().find(|layer| **layer >= count) {
                    let rule = format!("must be of layers below {count}");
                    return Err(RopeError::config(key, rule, past));
                }
                let full: HashSet<u32> = full.into_iter().collect();
                return Ok((0..count)
                    .map(|layer| named(full.contains(&layer)))
                    .collect());
            }
        }
        Some(List::Cycle(key)) => {
            if let Some(names) = strings(file, key)?.filter(|names| !names.is_empty()) {
                // Only names that are known are repeated: others might be as long as the file.
                let is_unknown = |name: &&String| *name != "attention" && *name != other;
                if let Some(name) = names.iter().find(is_unknown) {
                    let rule = format!("must be attention or {other}");
                    return Err(RopeError::config(key, rule, cut(name).0));
                }
                return Ok(names.into_iter().cycle().take(count as usize).collect());
            }
        }
        Some(List::Flags { .. }) | None => {}
    }
    let Some(rule) = every else {
        return Ok(Vec::new());
    };
    // A pattern of letters needs a list.
    let said = rule.key.and_then(|key| present(file, key));
    if said.is_some_and(Value::is_string) {
        return Ok(Vec::new());
    }
    let period = period(file, rule)?;
    let name = |layer| named(rule.is_full(layer, count, period));
    Ok((0..count).map(name).collect())
}

/// Of every how many layers one is full.
fn period(file: &Object, rule: Every) -> Result<u32> {
    let Some(key) = rule.key else {
        return Ok(rule.period);
    };
    match whole(file, key)?.unwrap_or(rule.period) {
        0 => Err(RopeError::config(key, "must be at least 1", 0)),
        period => Ok(period),
    }
}

/// Whether a layer rotates, where more than its type says so.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Yes,
    No,
    Theta(f64),
}

impl Turn {
    /// The same for what turns the same way.
    fn key(self) -> (bool, Option<u64>) {
        match self {
            Self::Yes => (true, None),
            Self::No => (false, None),
            Self::Theta(theta) => (true, Some(theta.to_bits())),
        }
    }
}

/// `no_rope_layers`, whose 1 means that a layer does rotate; or every so many that do not.
fn rope_flags(file: &Object, count: u32) -> Result<Vec<bool>> {
    const KEY: &str = "no_rope_layers";
    if let Some(flags) = wholes(file, KEY)?.filter(|flags| !flags.is_empty()) {
        let flags = for_each(KEY, flags, Some(count))?;
        return Ok(flags.into_iter().map(|flag| flag != 0).collect());
    }
    let still = Every::last(4).by("no_rope_layer_interval");
    let interval = period(file, still)?;
    let rotates = |layer| !still.is_full(layer, count, interval);
    Ok((0..count).map(rotates).collect())
}

fn layer_thetas(file: &Object, count: u32) -> Result<Option<Vec<f64>>> {
    const KEY: &str = "layer_rope_theta";
    numbers_or_null(file, KEY)?
        .filter(|thetas| !thetas.is_empty())
        .map(|thetas| for_each(KEY, thetas, Some(count)))
        .transpose()
}

fn rotating(file: &Object, family: &Family, names: &[String]) -> Result<Vec<Turn>> {
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let turn = |rotates: bool| if rotates { Turn::Yes } else { Turn::No };
    let by_name =
        |rotates: &dyn Fn(&str) -> bool| names.iter().map(|name| turn(rotates(name))).collect();
    Ok(match family.layers.nope {
        Nope::None | Nope::NullTheta => Vec::new(),
        Nope::Full => by_name(&|name| name != "full_attention"),
        Nope::FullWhileSliding => {
            // The classes have a window; a file that wants none says null.
            let slides = !file.get("sliding_window").is_some_and(Value::is_null);
            by_name(&|name| !slides || name != "full_attention")
        }
        Nope::Listed { .. } => {
            let flags = rope_flags(file, count)?;
            flags.into_iter().map(turn).collect()
        }
        Nope::LayerTheta => match layer_thetas(file, count)? {
            None => Vec::new(),
            Some(thetas) => {
                let each = |theta: f64| {
                    if theta == 0.0 {
                        Turn::No
                    } else {
                        Turn::Theta(theta)
                    }
                };
                thetas.into_iter().map(each).collect()
            }
        },
        Nope::LayerFlag => match layer_thetas(file, count)? {
            Some(flags) => flags.into_iter().map(|flag| turn(flag != 0.0)).collect(),
            None => family.layers.every.map_or_else(Vec::new, |rule| {
                let still = |layer| rule.is_full(layer, count, rule.period);
                (0..count).map(|layer| turn(!still(layer))).collect()
            }),
        },
        Nope::Cross => {
            let cross = wholes(file, "cross_attention_layers")?.unwrap_or_default();
            let cross: HashSet<u32> = cross.into_iter().collect();
            (0..count)
                .map(|layer| turn(!cross.contains(&layer)))
                .collect()
        }
    })
}
