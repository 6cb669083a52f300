//! Bytes from peers and from the disk that are almost right: every decoder refuses them, or takes
//! them for something of bounded size; none panics (RELIABILITY 3I). `bytes_test.rs` has the rules
//! that each format keeps.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};

use super::codec::checksum;
use super::samples_test as samples;
use crate::base::mutants_test::{hammer, mutate};
use crate::base::{Rng, WallMillis, limits};
use crate::wire::{
    FrameDecoder, WireError, decode_command, decode_entry_batch, decode_genesis, decode_hard_state,
    decode_hello, decode_hello_answer, decode_membership, decode_row, decode_row_key,
    decode_stamped, encode_command, encode_entry_batch, encode_frame, encode_genesis,
    encode_hard_state, encode_hello, encode_hello_answer, encode_membership, encode_row,
    encode_row_key, stamp_command,
};

/// In memory a message takes at most so many times its bytes, printed; measured: 30.
const GROWTH_MAX: usize = 150;

/// One encoding of each kind.
fn samples_of(rng: &mut Rng) -> Vec<Vec<u8>> {
    let command = encode_command(&samples::command(rng));
    let stamped = stamp_command(WallMillis(rng.below(1 << 40)), &command);
    let (key, row) = {
        let kind = rng.below(20);
        samples::row(rng, kind)
    };
    let key = encode_row_key(&key);
    let row = encode_row(&key, &row);
    vec![
        command.to_vec(),
        stamped.to_vec(),
        {
            let count = rng.between(1, 8);
            encode_entry_batch(&samples::entries(rng, 7, count, 1))
        },
        encode_hard_state(&samples::hard_state(rng)),
        encode_membership(&samples::membership(rng)),
        encode_genesis(&samples::genesis(rng)),
        encode_hello(&samples::hello(rng)).to_vec(),
        encode_hello_answer(&samples::hello_answer(rng)).to_vec(),
        encode_frame(&samples::peer_message(rng)).to_vec(),
        encode_frame(&samples::peer_message(rng)).to_vec(),
        key,
        row,
    ]
}

/// Whether something was made of the bytes; if so, it is not much larger than they are.
fn bounded<T: Debug>(bytes: &[u8], decoded: Result<T, WireError>) -> bool {
    let Ok(value) = decoded else { return false };
    let size = format!("{value:?}").len();
    let most = 2_000 + GROWTH_MAX * bytes.len();
    assert!(size <= most, "{} bytes became {size}: {value:?}", bytes.len());
    true
}

/// Gives `bytes` to every decoder, and says how many took them.
fn feed(bytes: &[u8]) -> u32 {
    let shared = Bytes::copy_from_slice(bytes);
    let key = &bytes[..bytes.len().min(9)];
    let taken = [
        bounded(bytes, decode_command(&shared)),
        bounded(bytes, decode_stamped(&shared)),
        bounded(bytes, decode_entry_batch(bytes)),
        bounded(bytes, decode_hard_state(bytes)),
        bounded(bytes, decode_membership(bytes)),
        bounded(bytes, decode_genesis(bytes)),
        bounded(bytes, decode_row_key(bytes)),
        bounded(bytes, decode_row(key, bytes)),
        bounded(bytes, decode_hello(bytes)),
        bounded(bytes, decode_hello_answer(bytes)),
    ];
    let (mut buffer, mut decoder) = (BytesMut::from(bytes), FrameDecoder::new());
    let mut messages = 0;
    while let Some(message) = decoder.next(&mut buffer) {
        if !bounded(bytes, message) {
            break;
        }
        messages += 1;
    }
    messages + taken.iter().map(|taken| u32::from(*taken)).sum::<u32>()
}

/// The same with lengths and checksums made right, so that what is behind them is reached: as a
/// frame, as a sealed value, and as the value behind a key.
fn feed_resealed(bytes: &[u8], key: &[u8]) -> u32 {
    let mut taken = 0;
    if bytes.len() > 9 {
        let mut frame = bytes.to_vec();
        frame[..4].copy_from_slice(&((bytes.len() - 9) as u32).to_le_bytes());
        let sum = checksum(&[&bytes[4..5], &bytes[9..]]);
        frame[5..9].copy_from_slice(&sum.to_le_bytes());
        taken += feed(&frame);
    }
    if bytes.len() > 5 {
        for context in [&[][..], key] {
            let mut sealed = bytes.to_vec();
            let sum = checksum(&[context, &bytes[..1], &bytes[5..]]);
            sealed[1..5].copy_from_slice(&sum.to_le_bytes());
            taken += feed(&sealed) + u32::from(bounded(&sealed, decode_row(key, &sealed)));
        }
    }
    taken
}

#[test]
fn what_is_almost_right_is_refused_or_bounded() {
    let (mut cases, mut taken) = (0_u64, 0_u64);
    hammer("wire", 400, |rng| {
        let all = samples_of(rng);
        let key = all[all.len() - 2].clone();
        for sample in &all {
            let mut bytes = sample.clone();
            let other = &all[rng.below(all.len() as u64) as usize];
            mutate(rng, &mut bytes, other);
            let seen = feed(&bytes) + feed_resealed(&bytes, &key);
            cases += 1;
            taken += u64::from(seen > 0);
        }
    });
    eprintln!("wire: {cases} mutants, {taken} of them were taken for something");
    assert!(taken > cases / 50, "only {taken} of {cases} got past the checksums");
}

/// Lengths that promise more than there is, at every place where a length can stand.
#[test]
fn lengths_that_lie_are_refused() {
    let rng = &mut Rng::new(1);
    for sample in samples_of(rng) {
        for place in 0..sample.len() {
            for lie in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff; 10], &[0x80; 12]] {
                let mut bytes = sample.clone();
                bytes.splice(place..=place, lie.iter().copied());
                feed(&bytes);
                feed_resealed(&bytes, &[3]);
            }
        }
    }
}

/// A large frame, filled with what takes least room on the wire and most in
/// memory: each tag that a message can begin with, empty, as often as it fits.
#[test]
fn frames_full_of_nothing_are_refused_or_bounded() {
    // Those of today, and the next ones.
    for kind in 0x10..=0x1c_u8 {
        for field in [1, 2, 3, 4, 6, 11] {
            let content = [(field << 3) | 2, 0].repeat((limits::FRAME_BYTES_MAX / 8 - 20) / 2);
            let mut inner = vec![(4_u8 << 3) | 2];
            prost::encoding::encode_varint(content.len() as u64, &mut inner);
            for content in [&content[..], &[&inner[..], &content[..]].concat()] {
                let mut frame = (content.len() as u32).to_le_bytes().to_vec();
                frame.push(kind);
                frame.extend_from_slice(&checksum(&[&[kind], content]).to_le_bytes());
                frame.extend_from_slice(content);
                let mut buffer = BytesMut::from(&frame[..]);
                let decoded = FrameDecoder::new().next(&mut buffer).expect("it is whole");
                assert!(decoded.is_err(), "kind {kind:#x}, field {field}: {decoded:?}");
            }
        }
    }
}
