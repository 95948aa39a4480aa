//! Secrets that are planted to see where they come out again, and the search for them.
//!
//! Invariants: a canary is found by its beginning or its end, so also cut off; it is found in every form that programs
//! give bytes (plain, hexadecimal, base 64 at any offset and with either alphabet, percent-encoded, a list of numbers);
//! a message says which canary was found where and in which form, and does not repeat it.

use std::collections::{BTreeSet, HashMap};

/// How many bytes of a form suffice to know it again.
const ENOUGH: usize = 20;
/// By how many bytes a form is looked up.
const KEY: usize = 8;

const SYMBOLS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A secret that nobody else has: 40 small letters and digits.
pub fn random() -> String {
    let mut bytes = [0; 40];
    getrandom::fill(&mut bytes).unwrap();
    bytes.map(|byte| char::from(SYMBOLS[usize::from(byte) % SYMBOLS.len()])).iter().collect()
}

/// Base 64 for addresses, without padding (RFC 4648, section 5).
pub fn base64url(bytes: &[u8]) -> String {
    base64(bytes, URL_SAFE)
}

/// The bytes of a text in base 64 for addresses, without padding.
///
/// # Panics
/// When it is none.
pub fn from_base64url(text: &str) -> Vec<u8> {
    let value = |c: u8| URL_SAFE.iter().position(|known| *known == c).expect("base 64");
    let bits = text.bytes().fold((Vec::new(), 0_usize, 0_u32), |(mut bytes, bits, count), c| {
        let (bits, count) = (bits << 6 | value(c), count + 6);
        if count < 8 {
            return (bytes, bits, count);
        }
        bytes.push((bits >> (count - 8)) as u8);
        (bytes, bits & ((1 << (count - 8)) - 1), count - 8)
    });
    bits.0
}

/// The bytes of a text in hexadecimal digits.
///
/// # Panics
/// When it is none.
pub fn from_hex(text: &str) -> Vec<u8> {
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Secrets, and what each of them looks like.
#[derive(Default)]
pub struct Canaries {
    names: Vec<String>,
    /// By the bytes that each begins with.
    forms: HashMap<[u8; KEY], Vec<Form>>,
}

struct Form {
    bytes: Vec<u8>,
    kind: &'static str,
    canary: usize,
}

impl Canaries {
    /// Adds a secret as it is written.
    ///
    /// # Panics
    /// When it is too short to be told from what stands anywhere.
    pub fn plant(&mut self, name: &str, text: &str) {
        self.plant_bytes(name, text, &[]);
    }

    /// Adds a secret as it is written, and the bytes that the text stands for.
    ///
    /// # Panics
    /// When it is too short to be told from what stands anywhere.
    pub fn plant_bytes(&mut self, name: &str, text: &str, bytes: &[u8]) {
        assert!(text.len() >= ENOUGH, "the canary \"{name}\" is too short");
        let canary = self.names.len();
        self.names.push(name.to_owned());
        for written in [text.as_bytes(), bytes].into_iter().filter(|written| !written.is_empty()) {
            for (kind, form) in forms(written) {
                self.add(&form, kind, canary);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn add(&mut self, form: &[u8], kind: &'static str, canary: usize) {
        // Numbers are wordy: more of them is needed.
        let enough = if kind == "numbers" { 2 * ENOUGH } else { ENOUGH }.min(form.len());
        for bytes in [&form[..enough], &form[form.len() - enough..]] {
            let key = bytes[..KEY].try_into().unwrap();
            self.forms.entry(key).or_default().push(Form { bytes: bytes.to_vec(), kind, canary });
        }
    }

    /// The canaries in here: `<name> (<form>)` each, once.
    pub fn in_bytes(&self, bytes: &[u8]) -> BTreeSet<String> {
        // Most places are no beginning, which is seen without looking one up.
        let mut begins = vec![false; 1 << 16];
        for key in self.forms.keys() {
            begins[usize::from(key[0]) << 8 | usize::from(key[1])] = true;
        }
        let mut found = BTreeSet::new();
        for (at, window) in bytes.windows(KEY).enumerate() {
            if !begins[usize::from(window[0]) << 8 | usize::from(window[1])] {
                continue;
            }
            let here = self.forms.get(window).into_iter().flatten();
            for form in here.filter(|form| bytes[at..].starts_with(&form.bytes)) {
                found.insert(format!("{} ({})", self.names[form.canary], form.kind));
            }
        }
        found
    }
}

fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let each = |write: &dyn Fn(&u8) -> String| bytes.iter().map(write).collect::<String>().into_bytes();
    let numbers = |between: &str| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(between);
    let mut all = vec![
        ("plain", bytes.to_vec()),
        ("hexadecimal", each(&|byte| format!("{byte:02x}"))),
        ("hexadecimal", each(&|byte| format!("{byte:02X}"))),
        ("percent-encoded", each(&|byte| format!("%{byte:02x}"))),
        ("percent-encoded", each(&|byte| format!("%{byte:02X}"))),
        ("numbers", numbers(", ").into_bytes()),
        ("numbers", numbers(",").into_bytes()),
    ];
    // What needs no encoding is the same as plain.
    if !bytes.iter().all(|byte| is_plain(*byte)) {
        let sparing = |byte: &u8| match char::from(*byte) {
            plain if is_plain(*byte) => plain.to_string(),
            _ => format!("%{byte:02X}"),
        };
        all.push(("percent-encoded", each(&sparing)));
    }
    for alphabet in [STANDARD, URL_SAFE] {
        for before in 0..3 {
            // What stands before and after takes part in the first and last symbols.
            let whole = base64(&[&vec![0; before][..], bytes].concat(), alphabet).into_bytes();
            let own = (before * 8).div_ceil(6)..(before + bytes.len()) * 8 / 6;
            all.push(("base 64", whole[own].to_vec()));
        }
    }
    all
}

/// Whether it stands for itself in an address (RFC 3986, section 2.3).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().enumerate().fold(0_u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        for n in 0..=three.len() {
            text.push(char::from(alphabet[(bits >> (18 - 6 * n) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_written_and_read() {
        for (text, coded) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(text.as_bytes()), coded);
            assert_eq!(from_base64url(coded), text.as_bytes());
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
        assert_eq!(from_hex("00fF7a"), [0, 255, 122]);
    }

    #[test]
    fn a_canary_is_found_in_every_form_whole_or_cut() {
        let text = random();
        let bytes: Vec<u8> = (0..32).map(|n| n * 7 + 1).collect();
        let mut canaries = Canaries::default();
        canaries.plant_bytes("one", &text, &bytes);
        canaries.plant("two", &random());
        let numbers = |bytes: &[u8]| format!("{bytes:?}");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let percent = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
        for secret in [text.as_bytes(), &bytes] {
            let mut places = vec![
                ("plain", secret.to_vec()),
                ("hexadecimal", hex(secret).into_bytes()),
                ("hexadecimal", hex(secret).to_uppercase().into_bytes()),
                ("percent-encoded", percent(secret).into_bytes()),
                ("numbers", numbers(secret).into_bytes()),
                ("numbers", numbers(secret).replace(' ', "").into_bytes()),
            ];
            for before in ["", "a", "ab", "abc", "user:"] {
                let more = [before.as_bytes(), secret, b"!"].concat();
                places.push(("base 64", base64(&more, STANDARD).into_bytes()));
                places.push(("base 64", base64(&more, URL_SAFE).into_bytes()));
            }
            for (kind, place) in places {
                let most = place.len() * 2 / 3;
                for part in [&place[..], &place[..most], &place[place.len() - most..]] {
                    let noise = [b"<<..", part, b"..>>"].concat();
                    let found = canaries.in_bytes(&noise);
                    assert!(found.contains(&format!("one ({kind})")), "{kind}: {found:?}");
                    assert!(found.iter().all(|name| name.starts_with("one")), "{found:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let mut canaries = Canaries::default();
        for _ in 0..30 {
            canaries.plant("one", &random());
        }
        assert!(!canaries.is_empty() && canaries.len() == 30);
        let other: String = (0..2000).map(|_| random()).collect();
        assert_eq!(canaries.in_bytes(other.as_bytes()), BTreeSet::new());
        assert_eq!(canaries.in_bytes(b"short"), BTreeSet::new());
    }
}
