//! From `[[bdev]]` sections that name each other to trees.
//!
//! ```text
//!   sections ─► nodes, by name ─► links, each bdev used once ─► no cycles, not too deep ─► trees of checked bdevs
//! ```
//!
//! Because a bdev is used at most once, whoever stands on it is one: all walks go up and need no search. A file of any
//! size takes time in proportion to it.

use std::collections::HashMap;

use super::Backend;
use super::check::{NAME_FORM, is_name};
use super::setting::{Section, similar};
use super::types::{self, Type};
use crate::Error;

/// Levels of a stack. Walks down are recursive, so this bounds them.
const MAX_LEVELS: usize = 32;
const MAX_CHILDREN: usize = 32;
/// So many names of a cycle are shown.
const MAX_SHOWN: usize = 8;

/// All `[[bdev]]` sections, linked.
pub(super) struct Stacks<'a> {
    nodes: Vec<Node<'a>>,
    by_name: HashMap<String, usize>,
}

struct Node<'a> {
    section: &'a Section,
    name: String,
    kind: Type,
    children: Vec<usize>,
    user: Option<User>,
}

/// What stands on a bdev.
enum User {
    Bdev(usize),
    Disk(String),
}

impl<'a> Stacks<'a> {
    /// Links the sections; refuses names that are unknown or used twice, cycles, and stacks that are too deep.
    pub(super) fn read(sections: &'a [Section]) -> Result<Self, Error> {
        let mut stacks = Self { nodes: Vec::with_capacity(sections.len()), by_name: HashMap::new() };
        for section in sections {
            stacks.add(section)?;
        }
        for index in 0..stacks.nodes.len() {
            stacks.link(index)?;
        }
        stacks.check_levels()?;
        Ok(stacks)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The stack that `disk` names in its key `bdev`.
    pub(super) fn take(&mut self, section: &Section, disk: &str, name: &str) -> Result<Backend, Error> {
        let index = self.find(section, "bdev", name)?;
        self.use_by(index, User::Disk(disk.into()), section, "bdev")?;
        self.build(index)
    }

    /// The stacks that nobody uses.
    pub(super) fn rest(&self) -> Result<Vec<Backend>, Error> {
        let unused = (0..self.nodes.len()).filter(|index| self.nodes[*index].user.is_none());
        unused.map(|index| self.build(index)).collect()
    }

    fn add(&mut self, section: &'a Section) -> Result<(), Error> {
        let kind = types::of_bdev(section)?;
        let name = section
            .read("name", NAME_FORM, |value| value.text().filter(|name| is_name(name)).map(String::from))?
            .ok_or_else(|| section.missing("name", "others stand on it by its name, for example \"b0\""))?;
        if self.by_name.insert(name.clone(), self.nodes.len()).is_some() {
            return Err(section.refuse_key("name", "another bdev has this name; give each its own"));
        }
        self.nodes.push(Node { section, name, kind, children: Vec::new(), user: None });
        Ok(())
    }

    fn link(&mut self, index: usize) -> Result<(), Error> {
        let Node { section, kind, .. } = self.nodes[index];
        let (key, names) = match kind {
            Type::Null | Type::Malloc | Type::Aio => return Ok(()),
            Type::Raid0 => ("children", child_names(section)?),
            Type::Crypto | Type::Delay | Type::Error => ("child", vec![child_name(section)?]),
        };
        for name in names {
            let child = self.find(section, key, &name)?;
            self.use_by(child, User::Bdev(index), section, key)?;
            self.nodes[index].children.push(child);
        }
        Ok(())
    }

    fn find(&self, section: &Section, key: &str, name: &str) -> Result<usize, Error> {
        if let Some(&index) = self.by_name.get(name) {
            return Ok(index);
        }
        let known: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let why = match similar(name, &known) {
            Some(other) => format!("there is no bdev {name}; did you mean {other}?"),
            None => format!("there is no bdev {name}; add a [[bdev]] of this name"),
        };
        Err(section.refuse_key(key, &why))
    }

    fn use_by(&mut self, index: usize, user: User, section: &Section, key: &str) -> Result<(), Error> {
        let name = &self.nodes[index].name;
        let why = match (&self.nodes[index].user, &user) {
            (None, _) => {
                self.nodes[index].user = Some(user);
                return Ok(());
            }
            (Some(User::Bdev(first)), User::Bdev(second)) if first == second => {
                format!("{name} is named twice; allowed: once")
            }
            (Some(User::Bdev(first)), _) => {
                let first = &self.nodes[*first];
                let position = match first.section.position() {
                    position if position.is_empty() => position,
                    position => format!(" ({position})"),
                };
                format!("{name} is used by bdev {}{position} already; allowed: once", first.name)
            }
            (Some(User::Disk(disk)), _) => format!("{name} is used by disk {disk} already; allowed: once"),
        };
        Err(section.refuse_key(key, &why))
    }

    fn parent(&self, index: usize) -> Option<usize> {
        match self.nodes[index].user {
            Some(User::Bdev(parent)) => Some(parent),
            Some(User::Disk(_)) | None => None,
        }
    }

    /// Finds each bdev's level by walking up to one whose level is known; whoever comes back to the road is a cycle.
    fn check_levels(&self) -> Result<(), Error> {
        const UNKNOWN: usize = 0;
        let mut levels = vec![UNKNOWN; self.nodes.len()];
        let mut walked_from = vec![None; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let (mut road, mut next) = (Vec::new(), Some(start));
            while let Some(at) = next.filter(|at| levels[*at] == UNKNOWN) {
                if walked_from[at].replace(start) == Some(start) {
                    return Err(self.cycle(&road, at));
                }
                road.push(at);
                next = self.parent(at);
            }
            for &at in road.iter().rev() {
                let level = self.parent(at).map_or(UNKNOWN, |parent| levels[parent]) + 1;
                if level > MAX_LEVELS {
                    return Err(self.too_deep(at));
                }
                levels[at] = level;
            }
        }
        Ok(())
    }

    /// `road` leads up from child to parent and on to `at`, which it has met before.
    fn cycle(&self, road: &[usize], at: usize) -> Error {
        let met = road.iter().position(|index| *index == at).unwrap_or(0);
        let mut names = vec![self.nodes[at].name.as_str()];
        names.extend(road[met..].iter().rev().map(|index| self.nodes[*index].name.as_str()));
        if names.len() > MAX_SHOWN {
            names.splice(MAX_SHOWN - 2..names.len() - 1, ["..."]);
        }
        let why = format!("it stands on itself: {}; a stack ends in null, malloc or aio", names.join(" -> "));
        self.refuse_children(at, &why)
    }

    fn too_deep(&self, child: usize) -> Error {
        let why = format!(
            "{} would be level {} of a stack; allowed: {MAX_LEVELS}",
            self.nodes[child].name,
            MAX_LEVELS + 1
        );
        self.refuse_children(self.parent(child).unwrap_or(child), &why)
    }

    fn refuse_children(&self, index: usize, why: &str) -> Error {
        let Node { section, kind, .. } = &self.nodes[index];
        section.refuse_key(if *kind == Type::Raid0 { "children" } else { "child" }, why)
    }

    /// The checked tree from here down.
    fn build(&self, index: usize) -> Result<Backend, Error> {
        let node = &self.nodes[index];
        let children = node.children.iter().map(|child| self.build(*child)).collect::<Result<_, _>>()?;
        types::backend(node.section, &node.name, node.kind, children)
    }
}

fn child_name(section: &Section) -> Result<String, Error> {
    let name = section.read("child", "the name of one [[bdev]]", |value| {
        value.text().filter(|name| is_name(name)).map(String::from)
    })?;
    name.ok_or_else(|| section.missing("child", "give the name of the [[bdev]] that it stands on"))
}

fn child_names(section: &Section) -> Result<Vec<String>, Error> {
    let names = section.read("children", "a list of names of [[bdev]], 1 to 32", |value| {
        let fits = |names: &Vec<String>| {
            (1..=MAX_CHILDREN).contains(&names.len()) && names.iter().all(|name| is_name(name))
        };
        value.texts().filter(fits)
    })?;
    names.ok_or_else(|| {
        section.missing("children", "give the names of the [[bdev]] that it stands on, as a list")
    })
}

#[cfg(test)]
mod tests;
