//! What every kind of object has in common, and the one list of kinds ([`objects`], used in `mod.rs`) from
//! which follow [`Kind`], [`AnyObject`], the [`Model`] and how each kind is stored, applied and looked up.
//!
//! A kind of object is one file: its type, its [`Object`], and what may be done with it. Adding one is that
//! file and its line in the list.

use super::{Collection, Kind, Model};
use std::collections::BTreeSet;
use std::fmt;
use uuid::Uuid;

/// A kind of object. Implemented beside its type; [`Stored`] follows from the list of kinds.
pub trait Object: Clone + fmt::Debug + PartialEq + Into<AnyObject> {
    /// The word in sentences, and with `_` for spaces in keys of the store and codes of faults.
    const WORD: &'static str;
    /// What `weft` calls it: `weft COMMAND list`.
    const COMMAND: &'static str = Self::WORD;
    /// How many the cloud may have.
    const MOST: usize;
    /// Whether it belongs to a project, in which its name is looked up; otherwise names are the cloud's.
    const OWNED: bool = true;
    /// Its record in the store: the API's message, its status left out. Old bytes stay readable by the rules
    /// of protobuf; what these do not promise is a matter of [`crate::store::SCHEMA`].
    type Record: prost::Message + Default;
    /// By what it is found, other than its id and its name.
    type Index: Clone + fmt::Debug + Default;

    /// Unique in the cloud; nil for what there is only one of.
    fn id(&self) -> Uuid;

    /// Unique among its kind in its project, or in the cloud if it is not of a project. Empty: it has none.
    fn name(&self) -> &str {
        ""
    }

    /// The project it belongs to; nil if it is of none.
    fn project(&self) -> Uuid {
        Uuid::nil()
    }

    /// As it is stored, and as the API shows it without its status.
    fn record(&self) -> Self::Record;

    /// Reads a record; the error says what is wrong with it.
    fn from_record(record: Self::Record) -> Result<Self, String>;

    /// Enters it into the indexes (`present`), or takes it out of them.
    fn index(&self, _index: &mut Self::Index, _present: bool) {}

    /// The hosts whose state depends on it in this model. The answer costs as much as it is long.
    fn touches(&self, _model: &Model) -> BTreeSet<Uuid> {
        BTreeSet::new()
    }

    /// What to do when none of this name is found.
    fn missing(_named: &str) -> String {
        format!("Choose one that `weft {} list` shows.", Self::COMMAND)
    }
}

/// A kind of object that the list names.
pub trait Stored: Object {
    /// Which.
    const KIND: Kind;

    /// All of this kind.
    fn all(model: &Model) -> &Collection<Self>;
}

pub use super::AnyObject;

/// One step from a model to the next. Few exist at a time, for one transaction each, and most are the larger one.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is so from now on, whether it existed or not.
    Put(AnyObject),
    /// It is no more.
    Remove(Kind, Uuid),
}

impl Change {
    /// The object is so from now on.
    #[must_use]
    pub fn put(object: impl Object) -> Self {
        Self::Put(object.into())
    }

    /// The object is no more.
    #[must_use]
    pub fn remove<T: Stored>(object: &T) -> Self {
        Self::Remove(T::KIND, object.id())
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> (Kind, Uuid) {
        match self {
            Self::Put(object) => (object.kind(), object.id()),
            Self::Remove(kind, id) => (*kind, *id),
        }
    }
}

/// The list of kinds: where the model has them, and their type; in the order in which they can be loaded, so
/// that what is referred to comes first.
macro_rules! objects {
    ($($field:ident: $Type:ident,)*) => {
        /// The kinds of objects.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Kind {
            $($Type,)*
        }

        impl Kind {
            /// All of them, in the order in which they can be loaded.
            pub const ALL: &'static [Self] = &[$(Self::$Type,)*];

            /// The word in keys of the store and codes of faults.
            #[must_use]
            pub fn word(self) -> String {
                match self {
                    $(Self::$Type => $Type::WORD,)*
                }
                .replace(' ', "_")
                .to_lowercase()
            }
        }

        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum AnyObject {
            $($Type($Type),)*
        }

        impl AnyObject {
            /// Which kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$Type(_) => Kind::$Type,)*
                }
            }

            /// Its id.
            #[must_use]
            pub fn id(&self) -> uuid::Uuid {
                match self {
                    $(Self::$Type(object) => object.id(),)*
                }
            }

            /// Its record, in bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$Type(object) => prost::Message::encode_to_vec(&object.record()),)*
                }
            }

            /// Reads a record of this kind; the error says what is wrong with it.
            pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, String> {
                Ok(match kind {
                    $(Kind::$Type => {
                        let record = prost::Message::decode(bytes).map_err(|error| error.to_string())?;
                        Self::$Type($Type::from_record(record)?)
                    })*
                })
            }
        }

        /// All objects of the cloud. Changed by [`Model::apply`] alone.
        #[derive(Clone, Debug, Default)]
        #[allow(missing_docs)]
        pub struct Model {
            $(pub $field: Collection<$Type>,)*
        }

        impl Model {
            /// Makes a change true. The planners have checked it; it cannot fail.
            pub fn apply(&mut self, change: &Change) {
                match change {
                    $(Change::Put(AnyObject::$Type(object)) => self.$field.put(object.clone()),)*
                    $(Change::Remove(Kind::$Type, id) => self.$field.remove(*id),)*
                }
            }

            /// The hosts whose state depends on the subject of a change *in this model*. A change touches
            /// what its subject touches before it is applied, and what it touches after: ask twice.
            #[must_use]
            pub fn touched(&self, change: &Change) -> std::collections::BTreeSet<uuid::Uuid> {
                let (kind, id) = change.subject();
                match kind {
                    $(Kind::$Type => self.$field.get(id).map(|object| object.touches(self)),)*
                }
                .unwrap_or_default()
            }
        }

        $(
            impl From<$Type> for AnyObject {
                fn from(object: $Type) -> Self {
                    Self::$Type(object)
                }
            }

            impl object::Stored for $Type {
                const KIND: Kind = Kind::$Type;

                fn all(model: &Model) -> &Collection<Self> {
                    &model.$field
                }
            }
        )*
    };
}
pub(super) use objects;
