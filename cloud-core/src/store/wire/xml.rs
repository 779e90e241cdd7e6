//! XML as services write it: elements and text.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

/// How deep elements may lie in one another; those of the services lie ten deep.
const MAX_DEPTH: usize = 16;

/// An element with what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name, without a name space.
    pub(crate) name: String,
    text: String,
    inside: Vec<Element>,
}

impl Element {
    /// The elements of a name right in this one.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.inside.iter().filter(move |one| one.name == name)
    }

    /// The elements `item` of the list of a name right in this one.
    #[cfg(feature = "aws")]
    pub(crate) fn items<'a>(&'a self, list: &'a str) -> impl Iterator<Item = &'a Self> {
        self.all(list).flat_map(|list| list.all("item"))
    }

    /// The same, taken out.
    #[cfg(feature = "aws")]
    pub(crate) fn into_items(self, list: &str) -> impl Iterator<Item = Self> {
        let lists = self.inside.into_iter().filter(move |one| one.name == list);
        let inside = lists.flat_map(|list| list.inside);
        inside.filter(|one| one.name == "item")
    }

    /// The first element of a name right in this one.
    #[cfg(feature = "aws")]
    pub(crate) fn first(&self, name: &str) -> Option<&Self> {
        self.inside.iter().find(|one| one.name == name)
    }

    /// The text of the first element of a name, if it is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let text = self
            .inside
            .iter()
            .find(|one| one.name == name)?
            .text
            .as_str();
        (!text.is_empty()).then_some(text)
    }
}

/// Reads a document.
///
/// # Errors
///
/// It is not one.
pub(crate) fn parse(bytes: &[u8]) -> Result<Element, ()> {
    let text = std::str::from_utf8(bytes).map_err(|_| ())?;
    let mut reader = Reader::from_str(text);
    // The elements that are open, outermost first, below one that is no element.
    let mut open = vec![Element::default()];
    let begun = |name: quick_xml::name::QName<'_>| -> Result<Element, ()> {
        let name = std::str::from_utf8(name.local_name().into_inner()).map_err(|_| ())?;
        Ok(Element {
            name: name.to_owned(),
            ..Element::default()
        })
    };
    loop {
        let event = reader.read_event().map_err(|_| ())?;
        let innermost = open.last_mut().ok_or(())?;
        match event {
            Event::Start(start) => {
                let element = begun(start.name())?;
                open.push(element);
                if open.len() > MAX_DEPTH {
                    return Err(());
                }
            }
            Event::Empty(start) => innermost.inside.push(begun(start.name())?),
            Event::End(_) => {
                let done = open.pop().ok_or(())?;
                open.last_mut().ok_or(())?.inside.push(done);
            }
            Event::Text(piece) => innermost.text += piece.decode().map_err(|_| ())?.as_ref(),
            Event::CData(piece) => innermost.text += piece.decode().map_err(|_| ())?.as_ref(),
            Event::GeneralRef(entity) => {
                if let Some(char) = entity.resolve_char_ref().map_err(|_| ())? {
                    innermost.text.push(char);
                } else {
                    let name = entity.decode().map_err(|_| ())?;
                    innermost.text += resolve_predefined_entity(&name).ok_or(())?;
                }
            }
            Event::Eof => break,
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    let [around] = open.try_into().map_err(|_: Vec<_>| ())?;
    around.inside.into_iter().next().ok_or(())
}

/// Whether a document is there from its beginning to its end, without keeping any
/// of it. The SDKs' own readers take one that is cut for a short one.
#[cfg(feature = "aws")]
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let mut reader = Reader::from_str(text);
    let (mut open, mut roots) = (0_usize, 0_usize);
    loop {
        let begins = match reader.read_event() {
            Err(_) => return false,
            Ok(Event::Eof) => return open == 0 && roots == 1,
            Ok(Event::Start(_)) => 1,
            Ok(Event::Empty(_)) => 0,
            Ok(Event::End(_)) => {
                // One too many is an error of the reader's.
                open = open.saturating_sub(1);
                continue;
            }
            Ok(_) => continue,
        };
        roots += usize::from(open == 0);
        open += begins;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_with_names_of_every_kind() {
        let text = "<?xml version=\"1.0\"?>\n<R xmlns=\"http://x\"><K>a &amp; b&#x2f;&lt;c&gt; </K>\
                    <E/><U><I>1</I></U><U><I>2</I></U></R>";
        let root = parse(text.as_bytes()).unwrap();
        assert_eq!(root.name, "R");
        assert_eq!(root.text("K"), Some("a & b/<c> "));
        assert_eq!(root.text("E"), None);
        let ids: Vec<_> = root.all("U").filter_map(|one| one.text("I")).collect();
        assert_eq!(ids, ["1", "2"]);
    }

    #[cfg(feature = "aws")]
    #[test]
    fn a_document_is_whole_only_with_its_last_byte() {
        let text = "<?xml version=\"1.0\"?>\n<R xmlns=\"http://x\"><K>a &amp; b</K><E/></R>";
        assert!(is_whole(text.as_bytes()));
        assert!(is_whole(b"<R/>\n"));
        for end in 0..text.len() {
            assert!(!is_whole(&text.as_bytes()[..end]), "{}", &text[..end]);
        }
        for odd in ["<a><b></a>", "<a/><a/>", "<a></a></a>", "{}", "<a>\u{0}<"] {
            assert!(!is_whole(odd.as_bytes()), "{odd}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for odd in ["", "text", "<a>", "<a></b>", "{}", "<a>&what;</a>"] {
            assert!(parse(odd.as_bytes()).is_err(), "{odd}");
        }
        let deep = "<a>".repeat(20) + &"</a>".repeat(20);
        assert!(parse(deep.as_bytes()).is_err());
        assert!(parse(b"<a>\xff</a>").is_err());
    }
}
