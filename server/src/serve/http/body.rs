//! Bodies of requests: bounded in size and in time, packed with gzip or not.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;

use super::failure::Failure;

/// Reads a body of at most `limit` bytes, also once it is unpacked, within `time`. `take` is told of
/// bytes before they are held, and may refuse them.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    (limit, time): (usize, Duration),
    take: &mut (dyn FnMut(usize) -> Result<(), Failure> + Send),
) -> Result<Vec<u8>, Failure> {
    let packed = is_gzip(headers)?;
    let read = tokio::time::timeout(time, read_raw(body, limit, take)).await;
    let bytes = read.map_err(|_| {
        let message = "the body took too long; send it in smaller parts";
        Failure::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
    })??;
    match packed {
        true => unpack(&bytes, limit, take),
        false => Ok(bytes),
    }
}

async fn read_raw(
    mut body: Body,
    limit: usize,
    take: &mut (dyn FnMut(usize) -> Result<(), Failure> + Send),
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::bad(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        take(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn unpack(
    bytes: &[u8],
    limit: usize,
    take: &mut (dyn FnMut(usize) -> Result<(), Failure> + Send),
) -> Result<Vec<u8>, Failure> {
    let mut unpacked = Vec::new();
    let mut packed = MultiGzDecoder::new(bytes);
    loop {
        let before = unpacked.len();
        let read = (&mut packed)
            .take(UNPACKED_AT_ONCE)
            .read_to_end(&mut unpacked);
        read.map_err(|error| Failure::bad(format!("the body is no gzip: {error}")))?;
        if unpacked.len() == before {
            return Ok(unpacked);
        }
        if unpacked.len() > limit {
            return Err(too_large(limit));
        }
        take(unpacked.len() - before)?;
    }
}

/// Bytes that are unpacked before somebody is asked for room.
const UNPACKED_AT_ONCE: u64 = 1 << 16;

fn too_large(limit: usize) -> Failure {
    let message = format!("the body has more than {limit} bytes; send it in parts");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Failure> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    match encoding.map_or(&b""[..], |encoding| encoding.as_bytes()) {
        b"" | b"identity" => Ok(false),
        b"gzip" | b"x-gzip" => Ok(true),
        _ => {
            let message = "bodies are packed with gzip, or not at all";
            Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoding",
                message,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn sent(bytes: Vec<u8>, encoding: &str, limit: usize) -> Result<usize, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        let within = (limit, Duration::from_secs(5));
        let mut taken = 0;
        let mut take = |bytes| {
            taken += bytes;
            match taken <= 100_000 {
                true => Ok(()),
                false => Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "")),
            }
        };
        let read = read(&headers, Body::from(bytes), within, &mut take).await;
        read.map(|bytes| bytes.len())
            .map_err(|failure| failure.status.as_u16())
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[tokio::test]
    async fn bodies_are_bounded_packed_or_not() {
        assert_eq!(sent(vec![0; 1_000], "", 1_000).await, Ok(1_000));
        assert_eq!(sent(vec![0; 1_001], "identity", 1_000).await, Err(413));
        assert_eq!(sent(packed(&[0; 1_000]), "gzip", 1_000).await, Ok(1_000));
        assert_eq!(sent(packed(&[0; 1_001]), "gzip", 1_000).await, Err(413));
        let bomb = packed(&vec![0; 50 << 20]);
        assert!(bomb.len() < 60_000);
        assert_eq!(sent(bomb.clone(), "gzip", 10 << 20).await, Err(503));
        assert_eq!(
            sent(bomb[..bomb.len() / 2].to_vec(), "gzip", 60_000).await,
            Err(413)
        );
        assert_eq!(sent(vec![1, 2, 3], "gzip", 1_000).await, Err(400));
        assert_eq!(sent(vec![], "br", 1_000).await, Err(415));
    }
}
