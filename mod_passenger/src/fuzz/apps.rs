//! Bytes that come from an app.

use super::{cuts, damaged, fuzz, pieces};
use crate::spawn_page;
use crate::upgrade::frames::Frames;
use crate::upstream::body::BodyDecoder;
use crate::upstream::frame::{self, ResponseHeader, HEADER_BYTES};
use crate::upstream::head::{is_token, ResponseHead};
use crate::upstream::http1;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

/// What httpd and clients rely on: nothing in a head that was accepted can end it, or begin another.
fn is_harmless(head: &ResponseHead) -> TestCaseResult {
    prop_assert!((100..=999).contains(&head.status));
    let is_visible = |b: u8| (0x20..0x7f).contains(&b);
    prop_assert!(head
        .reason
        .as_ref()
        .is_none_or(|reason| reason.bytes().all(is_visible)));
    for (name, value) in &head.fields {
        prop_assert!(!name.is_empty() && name.bytes().all(is_token), "{name:?}");
        prop_assert!(!value.iter().any(|b| b"\r\n\0".contains(b)), "{value:?}");
        let lower = name.to_ascii_lowercase();
        let of_the_hop = [
            "connection",
            "transfer-encoding",
            "content-length",
            "upgrade",
            "date",
        ];
        prop_assert!(!of_the_hop.contains(&lower.as_str()), "{name:?} travels");
        prop_assert!(!lower.starts_with("!~"), "{name:?} travels");
    }
    Ok(())
}

fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        "[A-Za-z!~-]{1,20}",
        prop::sample::select(
            &[
                "Content-Length",
                "Connection",
                "Transfer-Encoding",
                "Set-Cookie",
                "Status"
            ][..]
        )
        .prop_map(str::to_owned),
    ];
    let value = prop_oneof![
        "[ -~]{0,40}",
        "[0-9]{1,20}",
        "close|chunked|keep-alive, X-A".prop_map(|s| s)
    ];
    (name, value)
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(field(), 0..12)
}

#[test]
fn fuzz_binary_heads() {
    let valid = (
        any::<u8>(),
        "[1-9][0-9]{2}( [ -~]{0,20})?",
        fields(),
        any::<u64>(),
    )
        .prop_map(|(flags, status, fields, body)| {
            let mut head = status.into_bytes();
            for (name, value) in fields {
                head.extend([b"\0", name.as_bytes(), b"\0", value.as_bytes()].concat());
            }
            let mut bytes = (0x5053_5300 | u32::from(flags)).to_be_bytes().to_vec();
            bytes.extend(u32::try_from(head.len()).expect("small").to_be_bytes());
            bytes.extend(7_u64.to_be_bytes());
            bytes.extend(body.to_be_bytes());
            bytes.extend(head);
            bytes
        });
    fuzz(&damaged(valid), |bytes| {
        let Ok(Some(header)) = ResponseHeader::parse(&bytes) else {
            return Ok(());
        };
        prop_assert!(header.head_bytes <= frame::MAX_HEAD_BYTES);
        match bytes.get(HEADER_BYTES..HEADER_BYTES + header.head_bytes) {
            Some(head) => frame::parse_head(head).map_or(Ok(()), |head| is_harmless(&head)),
            None => Ok(()),
        }
    });
}

fn http_head() -> impl Strategy<Value = Vec<u8>> {
    ("HTTP/1\\.[01] [1-9][0-9]{2}( [ -~]{0,20})?", fields()).prop_map(|(line, fields)| {
        let mut text = line + "\r\n";
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n").into_bytes()
    })
}

#[test]
fn fuzz_http_heads() {
    fuzz(
        &(damaged(http_head()), any::<bool>()),
        |(bytes, is_head)| {
            let Ok(Some(parsed)) = http1::parse_head(&bytes, is_head) else {
                return Ok(());
            };
            prop_assert!(parsed.consumed <= bytes.len());
            is_harmless(&parsed.head)?;
            // The head is the same however much of what follows is here already.
            let exact = http1::parse_head(&bytes[..parsed.consumed], is_head);
            prop_assert_eq!(exact, Ok(Some(parsed)));
            Ok(())
        },
    );
}

/// Everything that a decoder makes of a stream, and whether it was content with it.
fn decode(mut decoder: BodyDecoder, bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, bool, bool) {
    let (mut payload, mut waiting) = (Vec::new(), Vec::new());
    for piece in pieces(bytes, cuts) {
        waiting.extend_from_slice(piece);
        while !decoder.is_done() && !waiting.is_empty() {
            let Ok(fed) = decoder.feed(&waiting) else {
                return (payload, false, false);
            };
            assert!(fed.consumed <= waiting.len() && fed.payload.end <= fed.consumed);
            payload.extend_from_slice(&waiting[fed.payload]);
            if fed.consumed == 0 {
                break;
            }
            waiting.drain(..fed.consumed);
        }
    }
    (payload, true, decoder.is_done())
}

fn agrees_with_itself(decoder: &BodyDecoder, bytes: &[u8], cuts: &[usize]) -> TestCaseResult {
    let whole = decode(decoder.clone(), bytes, &[usize::MAX]);
    let cut = decode(decoder.clone(), bytes, cuts);
    prop_assert!(whole.0.len() <= bytes.len());
    prop_assert_eq!(whole, cut, "in one piece and in several");
    Ok(())
}

fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)
}

#[test]
fn fuzz_chunked_bodies() {
    let valid =
        (parts(), "(;[a-z=\"]{0,10})?", fields()).prop_map(|(parts, extension, trailers)| {
            let mut bytes = Vec::new();
            for part in parts.iter().filter(|part| !part.is_empty()) {
                bytes.extend(format!("{:x}{extension}\r\n", part.len()).into_bytes());
                bytes.extend([part.as_slice(), b"\r\n"].concat());
            }
            bytes.extend(b"0\r\n");
            for (name, value) in trailers {
                bytes.extend(format!("{name}: {value}\r\n").into_bytes());
            }
            bytes.extend(b"\r\n");
            bytes
        });
    fuzz(&(damaged(valid), cuts()), |(bytes, cuts)| {
        agrees_with_itself(&BodyDecoder::chunks(), &bytes, &cuts)
    });
}

#[test]
fn fuzz_framed_bodies() {
    let valid = parts().prop_map(|parts| {
        let mut bytes = Vec::new();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            bytes.extend(u32::try_from(part.len()).expect("small").to_be_bytes());
            bytes.extend(part);
        }
        bytes.extend([0; 4]);
        bytes
    });
    fuzz(&(damaged(valid), cuts()), |(bytes, cuts)| {
        agrees_with_itself(&BodyDecoder::frames(), &bytes, &cuts)
    });
}

#[test]
fn fuzz_web_socket_frames() {
    let valid = (parts(), any::<u8>()).prop_map(|(parts, kind)| {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.push(0x80 | kind & 0xf);
            match u8::try_from(part.len()) {
                Ok(n @ 0..=125) => bytes.push(n),
                _ => {
                    bytes.push(126);
                    bytes.extend(u16::try_from(part.len()).expect("small").to_be_bytes());
                }
            }
            bytes.extend(part);
        }
        bytes
    });
    fuzz(&(damaged(valid), cuts()), |(bytes, cuts)| {
        let (mut whole, mut cut) = (Frames::default(), Frames::default());
        whole.pass(&bytes);
        pieces(&bytes, &cuts).for_each(|piece| cut.pass(piece));
        prop_assert_eq!(whole.is_between(), cut.is_between());
        prop_assert_eq!(whole.has_closed(), cut.has_closed());
        Ok(())
    });
}

#[test]
fn fuzz_printed_text() {
    let text =
        "(<[a-z/]{1,6}>|&[a-z]{1,4};|\u{1b}\\[[0-9;]{0,9}[a-zA-Z]?|[ -~]|\\PC|\\p{Cc}){0,40}";
    fuzz(&text, |text| {
        let escaped = spawn_page::escape(&text);
        let special = ['<', '>', '"', '\'', '\u{1b}', '\0'];
        prop_assert!(!escaped.contains(special), "{escaped:?}");
        Ok(())
    });
}
