//! The log: what of it is written, and how. It goes to standard error; its level can be changed while the
//! program runs (SIGHUP: the program reads its settings again).

use super::settings::{SettingsError, Source};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

/// Flags of the log.
#[derive(Clone, Debug, Default, Args)]
pub struct LogFlags {
    /// What is logged: error, warn, info, debug, trace, off; or by module: info,weft_dataplane=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How it is logged [default: lines]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<Format>,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Lines,
    /// One object a line.
    Json,
}

/// The settings `log` and `log_format`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A filter of `tracing`: a level, or levels by module.
    pub level: String,
    /// Its form.
    pub format: Format,
}

impl Settings {
    /// From the flags, and what the file says.
    ///
    /// # Errors
    /// If the level is none.
    pub fn of(
        flags: LogFlags,
        level: Option<String>,
        format: Option<Format>,
        source: &Source,
    ) -> Result<Self, SettingsError> {
        let format = flags.log_format.or(format).unwrap_or_default();
        let Some(said) = source.text("log", flags.log, level) else {
            return Ok(Self { level: "info".to_owned(), format });
        };
        // A word alone would be taken for the name of a module.
        let level = said.value.trim();
        let lone = !level.contains(['=', ',', '[']);
        let wrong = match EnvFilter::try_new(level) {
            Ok(_) if lone => level.is_empty() || level.parse::<LevelFilter>().is_err(),
            Ok(_) => false,
            Err(_) => true,
        };
        if wrong {
            let remedy = "Use error, warn, info, debug or trace, or MODULE=LEVEL joined by commas.";
            return Err(SettingsError::new(said.place, format!("\"{}\" is not a log level", said.value), remedy));
        }
        Ok(Self { level: level.to_owned(), format })
    }
}

/// Changes the level of a log that was started.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// A level alone is meant for Weft's own modules: what the libraries say below `info` would drown them.
fn filter_of(level: &str) -> EnvFilter {
    match level.parse::<LevelFilter>() {
        Ok(alone) if alone > LevelFilter::INFO => EnvFilter::new(format!("info,weft={alone}")),
        _ => EnvFilter::new(level),
    }
}

/// Starts the program's log.
///
/// # Panics
/// If it is started twice.
#[must_use]
pub fn start(settings: &Settings) -> Log {
    let (filter, handle) = reload::Layer::new(filter_of(&settings.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match settings.format {
        Format::Lines => Registry::default().with(lines.with_ansi(false).with_filter(filter)).init(),
        Format::Json => Registry::default().with(lines.json().with_filter(filter)).init(),
    }
    Log { filter: handle }
}

impl Log {
    /// At every SIGHUP reads the settings again and takes the log's level from them. Of what else is new in
    /// them it says that it counts from the next start; settings that are wrong change nothing.
    pub async fn follow<S: PartialEq>(
        self,
        mut known: S,
        read: impl Fn() -> Result<S, SettingsError>,
        log: impl Fn(&mut S) -> &mut Settings,
    ) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => return tracing::warn!(%error, "SIGHUP cannot be heard: the log keeps its level"),
        };
        while hangup.recv().await.is_some() {
            match read() {
                Ok(mut settings) => {
                    let wanted = log(&mut settings).level.clone();
                    self.set(&wanted);
                    log(&mut known).level = wanted;
                    if settings != known {
                        tracing::warn!("of the settings only the log's level can change now: restart for the others");
                    }
                }
                Err(error) => tracing::error!("the settings stay as they were: {error}"),
            }
        }
    }

    fn set(&self, level: &str) {
        match self.filter.reload(filter_of(level)) {
            Ok(()) => tracing::info!(level, "the settings were read again"),
            Err(error) => tracing::error!(%error, level, "the log's level cannot be changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn level(text: &str) -> Result<String, String> {
        let source = Source::of(Path::new("weft.toml"), format!("log = \"{text}\"\n"));
        let settings = Settings::of(LogFlags::default(), Some(text.to_owned()), None, &source);
        settings.map(|settings| settings.level).map_err(|error| error.to_string())
    }

    #[test]
    fn a_level_alone_is_for_our_own_modules() {
        assert_eq!(filter_of("debug").to_string(), "weft=debug,info");
        assert_eq!(filter_of("warn").to_string(), "warn");
        assert_eq!(filter_of("trace,h2=trace").max_level_hint(), Some(LevelFilter::TRACE));
    }

    #[test]
    fn levels_are_levels_or_modules_with_levels() {
        for right in ["info", "trace", "off", "WARN", "info,weft_dataplane=debug", "weft_dataplane::agent=trace"] {
            assert_eq!(level(right).as_deref(), Ok(right));
        }
        for wrong in ["loud", "a=b=c", "info,weft=loud", ""] {
            let error = level(wrong).expect_err(wrong);
            assert!(error.starts_with("weft.toml, line 1 (log): "), "{error}");
        }
    }
}
