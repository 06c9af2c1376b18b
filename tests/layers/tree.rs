//! The modules of the crate, and which file the name in a path comes from.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::{Kind, Mention, Source, scan};

/// `["study", "plan"]`; empty for the crate itself.
pub type Path = Vec<String>;

/// A module: a file, or part of one.
#[derive(Debug, Default)]
struct Module {
    /// Its file, relative to `src`.
    file: String,
    children: BTreeSet<String>,
    /// Names that a `use` gives, and what they stand for as it is written.
    imports: BTreeMap<String, Path>,
    globs: Vec<Path>,
    items: BTreeSet<String>,
}

/// All files that `lib.rs` reaches without those of tests.
#[derive(Debug, Default)]
pub struct Tree {
    modules: BTreeMap<Path, Module>,
    /// Each file's module and what was read in it.
    pub sources: BTreeMap<String, (Path, Source)>,
    /// Modules that are declared and have no file where one belongs.
    pub missing: Vec<String>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The modules on the way, each named in the path or in a re-export; the last is where the name is defined.
    pub through: Vec<Path>,
    /// Whether the last module defines the name (or is the name).
    pub certain: bool,
    /// Whether the path ends in an item, not in a module.
    item: bool,
}

/// A file that needs another.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    pub from: String,
    pub line: usize,
    /// The path as it is written.
    pub path: String,
    pub target: Target,
}

impl Tree {
    /// Follows the modules from `lib.rs` on; `read` gives the text of a file, relative to `src`.
    pub fn new(read: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut tree = Self::default();
        tree.add("lib.rs", Vec::new(), read);
        tree
    }

    fn add(&mut self, file: &str, module: Path, read: &dyn Fn(&str) -> Option<String>) {
        let source = scan(&read(file).unwrap_or_else(|| panic!("{file} cannot be read")));
        let inner = |within: &[String]| -> Path { module.iter().chain(within).cloned().collect() };
        for path in std::iter::once(module.clone()).chain(source.inline.iter().map(|within| inner(within))) {
            if let [parent @ .., name] = &path[..] {
                self.modules.entry(parent.to_vec()).or_default().children.insert(name.clone());
            }
            file.clone_into(&mut self.modules.entry(path).or_default().file);
        }
        for mention in &source.mentions {
            let module = self.modules.get_mut(&inner(&mention.within)).expect("its own module");
            match &mention.kind {
                Kind::Import(name) => drop(module.imports.insert(name.clone(), mention.path.clone())),
                Kind::Glob => module.globs.push(mention.path.clone()),
                Kind::Code => {}
            }
        }
        for (within, name) in &source.items {
            self.modules.get_mut(&inner(within)).expect("its own module").items.insert(name.clone());
        }
        let declared: Vec<Path> = source
            .modules
            .iter()
            .map(|(within, name)| inner(within).into_iter().chain([name.clone()]).collect())
            .collect();
        self.sources.insert(file.to_owned(), (module, source));
        for path in declared {
            let places = [format!("{}.rs", path.join("/")), format!("{}/mod.rs", path.join("/"))];
            match places.iter().find(|file| read(file).is_some()) {
                Some(file) => self.add(file, path, read),
                None => self.missing.push(format!("{file}: mod {} has no file", path.join("::"))),
            }
        }
    }

    /// The file of a module.
    pub fn file(&self, module: &Path) -> &str {
        &self.modules[module].file
    }

    /// Where the path leads that is written in `module`; none if out of the crate, or to a name of the module's own.
    pub fn resolve(&self, module: &Path, path: &[String]) -> Option<Target> {
        self.start(module, path, &mut Vec::new())
    }

    /// `asked` are the names that are being looked up: a name that stands for itself leads nowhere.
    fn start(&self, module: &Path, path: &[String], asked: &mut Vec<(Path, String)>) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let at = |module: Path| Target { through: vec![module], certain: true, item: false };
        let mut target = match first.as_str() {
            "crate" => at(Vec::new()),
            "self" => at(module.clone()),
            "super" => at(module[..module.len().checked_sub(1)?].to_vec()),
            name => self.name(module, name, asked).filter(|target| {
                // A name that the module itself defines says nothing of other files.
                target.through.last() != Some(module)
            })?,
        };
        for name in rest {
            if target.item {
                break;
            }
            let module = target.through.last().expect("a module").clone();
            if name == "super" {
                target = at(module[..module.len().checked_sub(1)?].to_vec());
                continue;
            }
            if let Some(next) = self.name(&module, name, asked) {
                target.through.extend(next.through);
                (target.certain, target.item) = (next.certain, next.item);
            } else {
                (target.certain, target.item) = (self.imports(&module, name), true);
            }
        }
        Some(target)
    }

    /// Whether the module imports the name from somewhere: from another crate, if no module of this one has it.
    fn imports(&self, module: &Path, name: &str) -> bool {
        self.modules[module].imports.contains_key(name)
    }

    /// What a name stands for in a module; none if it comes from another crate or is unknown.
    fn name(&self, path: &Path, name: &str, asked: &mut Vec<(Path, String)>) -> Option<Target> {
        let module = &self.modules[path];
        let question = (path.clone(), name.to_owned());
        if module.children.contains(name) {
            let child = path.iter().cloned().chain([name.to_owned()]).collect();
            return Some(Target { through: vec![child], certain: true, item: false });
        }
        if asked.contains(&question) {
            return None;
        }
        asked.push(question);
        let imported = module.imports.get(name).and_then(|import| self.start(path, import, asked));
        let found = imported.or_else(|| {
            let here = Target { through: vec![path.clone()], certain: true, item: true };
            module.items.contains(name).then_some(here)
        });
        let found = found.or_else(|| {
            module.globs.iter().find_map(|glob| {
                let target = self.start(path, glob, asked)?;
                let next = self.name(target.through.last()?, name, asked)?;
                let through = target.through.into_iter().chain(next.through).collect();
                Some(Target { through, ..next })
            })
        });
        asked.pop();
        found
    }

    /// Everything that a file mentions of the crate, in the order in which it stands there.
    pub fn mentions(&self, file: &str) -> Vec<Edge> {
        let (module, source) = &self.sources[file];
        let edge = |mention: &Mention| {
            let within = module.iter().chain(&mention.within).cloned().collect();
            let target = self.resolve(&within, &mention.path)?;
            Some(Edge { from: file.to_owned(), line: mention.line, path: mention.path.join("::"), target })
        };
        source.mentions.iter().filter_map(edge).collect()
    }

    /// For each file the files that it needs, each with the first line that says so. A map needs nothing: who imports
    /// through it needs the file behind it.
    pub fn needs(&self) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut needs = BTreeMap::new();
        for (file, (_, source)) in &self.sources {
            let mut needed = BTreeMap::new();
            if !is_map(file, source) {
                for edge in self.mentions(file) {
                    let other = self.file(edge.target.through.last().expect("a module"));
                    if other != file {
                        needed.entry(other.to_owned()).or_insert(edge.line);
                    }
                }
            }
            needs.insert(file.clone(), needed);
        }
        needs
    }

    /// Paths that lead to no definition that was read.
    pub fn unknown(&self) -> Vec<String> {
        let mut unknown = self.missing.clone();
        for file in self.sources.keys() {
            for edge in self.mentions(file).into_iter().filter(|edge| !edge.target.certain) {
                unknown.push(format!("{}:{}: nothing defines {}", edge.from, edge.line, edge.path));
            }
        }
        unknown
    }
}

/// Whether a file only shows the way to others.
pub fn is_map(file: &str, source: &Source) -> bool {
    (file.ends_with("mod.rs") || file == "lib.rs") && source.more_than_a_map.is_empty()
}

/// Groups of files of which each needs every other one, by way of the others or at once; largest first.
pub fn circles(needs: &BTreeMap<String, BTreeMap<String, usize>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            for other in needs.get(file).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(other) {
                    next.push(other);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        needs.keys().map(|file| (file, reached(file))).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reach {
        let circle: Vec<String> = others
            .iter()
            .filter(|other| reach.get(**other).is_some_and(|back| back.contains(file)))
            .map(|other| (*other).clone())
            .collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    let mut circles: Vec<_> = circles.into_iter().collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}
