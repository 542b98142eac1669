//! Settings of a program: one TOML file, and a flag for each of them. A flag goes before the file.
//!
//! A setting's flag is its key with `-` for `.` and `_`: `memory.chunks` and `--memory-chunks`. Keys that do
//! not exist are refused, with the one that was probably meant; every error says where the setting stands.

use serde::de::DeserializeOwned;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Where the programs' sockets are unless the settings say otherwise.
pub const RUN_DIRECTORY: &str = "/run/weft";

/// Makes [`RUN_DIRECTORY`] if the socket is to be in it: /run is empty after a start of the machine. No other
/// directory is made for a socket: its path may be a mistake.
///
/// # Errors
/// If there is no directory for the socket.
pub fn run_directory(socket: &Path) -> std::io::Result<()> {
    let directory = socket.parent().filter(|directory| !directory.as_os_str().is_empty());
    match directory {
        Some(directory) if directory == Path::new(RUN_DIRECTORY) => std::fs::create_dir_all(directory),
        Some(directory) if !directory.is_dir() => {
            let problem = format!("there is no directory {}", directory.display());
            Err(std::io::Error::new(std::io::ErrorKind::NotFound, problem))
        }
        _ => Ok(()),
    }
}

/// What is wrong with the settings: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}. {remedy}")]
pub struct SettingsError {
    /// "weft.toml, line 3 (workers.count)" or "--workers-count".
    pub place: String,
    /// Without a full stop.
    pub problem: String,
    /// A sentence.
    pub remedy: String,
}

impl SettingsError {
    /// In this place.
    pub fn new(place: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// From "what is wrong. What to do."
    #[must_use]
    pub fn of_sentence(place: &str, sentence: &str) -> Self {
        let (problem, remedy) = sentence.split_once(". ").unwrap_or((sentence, ""));
        Self::new(place, problem, remedy)
    }
}

/// A text and where it was said.
#[derive(Debug, Default)]
pub struct Said {
    /// The text.
    pub value: String,
    /// The line of the file, or the flag.
    pub place: String,
}

/// The file's text, and where in it, or on the command line, a setting was said.
#[derive(Default)]
pub struct Source {
    file: Option<(PathBuf, String)>,
}

impl Source {
    /// The file of `--config`, if one is given.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(config: Option<&Path>) -> Result<Self, SettingsError> {
        let Some(path) = config else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let remedy = "Give a file that can be read (--config FILE).";
            SettingsError::new(path.display().to_string(), error.to_string(), remedy)
        })?;
        Ok(Self::of(path, text))
    }

    /// This text, as if it stood in this file.
    pub fn of(path: &Path, text: impl Into<String>) -> Self {
        Self { file: Some((path.to_owned(), text.into())) }
    }

    /// The file's settings; without a file, none.
    ///
    /// # Errors
    /// The first thing that cannot be read, with its line.
    pub fn parse<F: DeserializeOwned + Default>(&self) -> Result<F, SettingsError> {
        let Some((path, text)) = &self.file else { return Ok(F::default()) };
        toml::from_str(text).map_err(|error| unreadable(path, text, &error))
    }

    /// Where a setting was said: "weft.toml, line 3 (workers.count)", or its flag. One that is missing
    /// from the file belongs into the file, if there is one.
    #[must_use]
    pub fn place(&self, key: &str, by_flag: bool) -> String {
        let flag = format!("--{}", key.replace(['.', '_'], "-"));
        let Some((path, text)) = self.file.as_ref().filter(|_| !by_flag) else { return flag };
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let mut here = "";
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                here = header.trim();
            } else if here == section && line.split('=').next().is_some_and(|word| word.trim() == name) {
                return format!("{}, line {} ({key})", path.display(), index + 1);
            }
        }
        format!("{} ({key})", path.display())
    }

    /// A text: the flag's, or the file's.
    #[must_use]
    pub fn text(&self, key: &str, flag: Option<String>, file: Option<String>) -> Option<Said> {
        let place = self.place(key, flag.is_some());
        flag.or(file).map(|value| Said { value, place })
    }

    /// A number: the flag's, the file's, or the default.
    ///
    /// # Errors
    /// If it is out of range.
    pub fn number(
        &self,
        key: &str,
        flag: Option<usize>,
        file: Option<usize>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, SettingsError> {
        let number = flag.or(file).unwrap_or(default);
        if range.contains(&number) {
            return Ok(number);
        }
        let remedy = format!("Use {} to {}.", range.start(), range.end());
        Err(SettingsError::new(self.place(key, flag.is_some()), format!("{number} is out of range"), remedy))
    }
}

/// An error of the TOML parser, with its line; and what was probably meant by a key that does not exist.
fn unreadable(path: &Path, text: &str, error: &toml::de::Error) -> SettingsError {
    let before = error.span().map_or(0, |span| span.start).min(text.len());
    let line = text.as_bytes()[..before].iter().filter(|&&byte| byte == b'\n').count() + 1;
    let place = format!("{}, line {line}", path.display());
    let message = error.message().replace('\n', " ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = quoted.next()
    {
        let known: Vec<&str> = quoted.collect();
        let near = known.iter().map(|one| (distance(unknown, one), one)).min();
        let remedy = match near {
            Some((far, one)) if far <= unknown.len().div_ceil(3) => format!("Did you mean {one}?"),
            _ => format!("Use one of {}.", known.join(", ")),
        };
        return SettingsError::new(place, format!("there is no setting {unknown}"), remedy);
    }
    SettingsError::new(place, message, "See the settings in --help and docs/configuration.md.")
}

/// Edit distance (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, right) in other.chars().enumerate() {
            let substituted = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.chars().count()]
}

/// A settings file that a page of the documentation shows, as programs' tests read it.
#[derive(Debug)]
pub struct Example {
    /// The file.
    pub as_it_stands: String,
    /// The file with the settings that are only mentioned in it (`#host = "compute-1"`).
    pub all_settings: String,
}

impl Example {
    /// The block of TOML that begins with the comment "# FILE", compared with a program's flags.
    ///
    /// # Errors
    /// If there is no such block, or one of the two names a setting that the other does not.
    pub fn of(page: &str, file: &str, flags: &clap::Command) -> Result<Self, String> {
        let start = format!("```toml\n# {file}");
        let block = page.split_once(&start).and_then(|(_, rest)| rest.split_once("\n```"));
        let (block, _) = block.ok_or_else(|| format!("the page has no block that begins with \"# {file}\""))?;
        let mut section = String::new();
        let (mut shown, mut all_settings) = (Vec::new(), String::new());
        for line in block.lines().skip(1) {
            // A comment has a space after its "#", a setting that is only mentioned has none.
            let mentioned = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']) && !rest.is_empty());
            let setting = mentioned.unwrap_or(line);
            all_settings += setting;
            all_settings.push('\n');
            if let Some(name) = setting.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = format!("{}-", name.replace('_', "-"));
            } else if let Some((key, _)) = setting.split_once(" = ").filter(|_| !setting.starts_with('#')) {
                let table = section.trim_end_matches('-');
                // Of a table whose keys the user chooses, the table is the setting.
                let chosen = flags.get_arguments().any(|flag| flag.get_long() == Some(table));
                shown.push(if chosen { table.to_owned() } else { format!("{section}{}", key.replace('_', "-")) });
            }
        }
        let known: Vec<&str> = flags.get_arguments().filter_map(clap::Arg::get_long).collect();
        let known: Vec<&str> = known.into_iter().filter(|flag| !["config", "check-config"].contains(flag)).collect();
        if let Some(flag) = known.iter().find(|flag| !shown.iter().any(|one| one == *flag)) {
            return Err(format!("{file} of the page does not show the setting of --{flag}"));
        }
        if let Some(setting) = shown.iter().find(|one| !known.contains(&one.as_str())) {
            return Err(format!("{file} of the page shows {setting}, for which there is no flag"));
        }
        let as_it_stands = block.split_once('\n').map_or("", |(_, rest)| rest).to_owned();
        Ok(Self { as_it_stands, all_settings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct File {
        #[allow(dead_code, reason = "only its name matters")]
        socket: Option<String>,
        #[allow(dead_code, reason = "only its name matters")]
        listen: Option<String>,
    }

    fn refused(text: &str) -> String {
        Source::of(Path::new("weft.toml"), text).parse::<File>().expect_err(text).to_string()
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        assert_eq!(
            refused("\nsokcet = \"/a\"\n"),
            "weft.toml, line 2: there is no setting sokcet. Did you mean socket?"
        );
        assert_eq!(
            refused("colour = 1\n"),
            "weft.toml, line 1: there is no setting colour. Use one of socket, listen."
        );
        assert!(refused("socket = 5\n").starts_with("weft.toml, line 1: invalid type"));
        assert!(refused("# ü\nsocket = \n").starts_with("weft.toml, line 2: "));
        let missing = Source::read(Some(Path::new("/does/not/exist.toml"))).err().expect("there is no such file");
        assert!(missing.to_string().starts_with("/does/not/exist.toml: "), "{missing}");
    }

    #[test]
    fn an_example_and_the_flags_name_the_same_settings() {
        let page = "Text\n```toml\n# weft.toml\n# The name.\n#host = \"a\"\n\n[memory]\nruns_at = 2 # of = 3\n```\n";
        let command = |names: &[&'static str]| {
            names
                .iter()
                .fold(clap::Command::new("weft"), |command, name| command.arg(clap::Arg::new(*name).long(*name)))
        };
        let example = Example::of(page, "weft.toml", &command(&["host", "memory-runs-at", "config"])).unwrap();
        assert_eq!(example.as_it_stands, "# The name.\n#host = \"a\"\n\n[memory]\nruns_at = 2 # of = 3");
        assert_eq!(example.all_settings, "# The name.\nhost = \"a\"\n\n[memory]\nruns_at = 2 # of = 3\n");
        let missing = Example::of(page, "weft.toml", &command(&["host", "memory-runs-at", "log"])).unwrap_err();
        assert!(missing.contains("--log"), "{missing}");
        let unheard = Example::of(page, "weft.toml", &command(&["host"])).unwrap_err();
        assert!(unheard.contains("memory-runs-at"), "{unheard}");
        assert!(Example::of(page, "other.toml", &command(&[])).is_err());
    }

    #[test]
    fn a_setting_is_found_where_it_stands() {
        let source = Source::of(Path::new("weft.toml"), "a_b = 1\n[memory]\nchunks = 2\n[workers]\nchunks = 3\n");
        assert_eq!(source.place("a_b", false), "weft.toml, line 1 (a_b)");
        assert_eq!(source.place("a_b", true), "--a-b");
        assert_eq!(source.place("workers.chunks", false), "weft.toml, line 5 (workers.chunks)");
        assert_eq!(source.place("other", false), "weft.toml (other)");
        let error = source.number("workers.chunks", None, Some(3), 1, 1..=2).unwrap_err();
        assert_eq!(error.to_string(), "weft.toml, line 5 (workers.chunks): 3 is out of range. Use 1 to 2.");
        assert_eq!(source.number("memory.runs", None, None, 1, 1..=2), Ok(1));
    }
}
