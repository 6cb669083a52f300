//! The fields of requests for certificates and of their answers, as prost messages.
//!
//! Unknown fields are skipped: two programs of different age speak here, and the protocol's name
//! has its version in it.

use bytes::Bytes;

use super::codec::{bound_count, bounded, codes, lenient, one_to, required};
use crate::base::limits;
use crate::wire::{Admission, JoinAnswer, JoinOrder, JoinRefusal, JoinRequest, WireError};

codes!(refusal_code, refusal_of, JoinRefusal, "refusal of a join", {
    Busy = 1,
    Expired = 2,
    Malformed = 3,
    NameTaken = 4,
    NameWanted = 5,
    NoAuthority = 6,
    NotMember = 7,
    NotReady = 8,
    Proof = 9,
    Revoked = 10,
    Role = 11,
    TokenName = 12,
    Unknown = 13,
    Used = 14,
});

/// Longest id of a token in bytes.
const TOKEN_ID_BYTES_MAX: usize = 64;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JoinRequestProto {
    #[prost(oneof = "JoinKindProto", tags = "1, 2")]
    kind: Option<JoinKindProto>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum JoinKindProto {
    #[prost(message, tag = "1")]
    Join(JoinOrderProto),
    #[prost(bytes = "bytes", tag = "2")]
    Renew(Bytes),
}

#[derive(Clone, PartialEq, prost::Message)]
struct JoinOrderProto {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(bool, tag = "4")]
    voter: bool,
    #[prost(bytes = "bytes", tag = "5")]
    request: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    proof: Bytes,
}

impl From<&JoinRequest> for JoinRequestProto {
    fn from(request: &JoinRequest) -> Self {
        let kind = match request {
            JoinRequest::Join(order) => JoinKindProto::Join(JoinOrderProto {
                token: order.token.clone(),
                name: order.name.clone(),
                address: order.address.clone(),
                voter: order.voter,
                request: order.request.clone(),
                proof: order.proof.clone(),
            }),
            JoinRequest::Renew { request } => JoinKindProto::Renew(request.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl JoinRequestProto {
    pub(super) fn read(content: Bytes) -> Result<JoinRequest, WireError> {
        let proto: Self = lenient(content)?;
        let bytes_max = limits::JOIN_REQUEST_BYTES_MAX;
        Ok(match required(proto.kind)? {
            JoinKindProto::Join(order) => JoinRequest::Join(JoinOrder {
                token: bounded(order.token, TOKEN_ID_BYTES_MAX)?,
                name: bounded(order.name, limits::NODE_NAME_BYTES_MAX)?,
                address: bounded(order.address, limits::ADDRESS_BYTES_MAX)?,
                voter: order.voter,
                request: one_to(order.request, bytes_max)?,
                proof: one_to(order.proof, bytes_max)?,
            }),
            JoinKindProto::Renew(request) => {
                JoinRequest::Renew { request: one_to(request, bytes_max)? }
            }
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JoinAnswerProto {
    #[prost(message, optional, tag = "1")]
    issued: Option<AdmissionProto>,
    #[prost(string, repeated, tag = "2")]
    ask: Vec<String>,
    /// Zero when it is no refusal.
    #[prost(uint32, tag = "3")]
    refusal: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AdmissionProto {
    #[prost(string, tag = "1")]
    certificate: String,
    #[prost(string, tag = "2")]
    roots: String,
    #[prost(message, repeated, tag = "3")]
    voters: Vec<VoterProto>,
    #[prost(bool, tag = "4")]
    voter: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VoterProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    address: String,
}

impl From<&JoinAnswer> for JoinAnswerProto {
    fn from(answer: &JoinAnswer) -> Self {
        match answer {
            JoinAnswer::Ask { addresses } => Self { ask: addresses.clone(), ..Self::default() },
            JoinAnswer::Refused(refusal) => {
                Self { refusal: refusal_code(*refusal), ..Self::default() }
            }
            JoinAnswer::Issued(admission) => {
                let voter = |(name, address): &(String, String)| VoterProto {
                    name: name.clone(),
                    address: address.clone(),
                };
                let issued = AdmissionProto {
                    certificate: admission.certificate.clone(),
                    roots: admission.roots.clone(),
                    voters: admission.voters.iter().map(voter).collect(),
                    voter: admission.voter,
                };
                Self { issued: Some(issued), ..Self::default() }
            }
        }
    }
}

impl JoinAnswerProto {
    pub(super) fn read(content: Bytes) -> Result<JoinAnswer, WireError> {
        bound_count(&content, &[2], limits::VOTERS_MAX)?;
        bound_count(&content, &[1, 3], limits::VOTERS_MAX)?;
        let proto: Self = lenient(content)?;
        if let Some(issued) = proto.issued {
            let voter = |voter: VoterProto| {
                Ok((
                    bounded(voter.name, limits::NODE_NAME_BYTES_MAX)?,
                    bounded(voter.address, limits::ADDRESS_BYTES_MAX)?,
                ))
            };
            return Ok(JoinAnswer::Issued(Admission {
                certificate: issued.certificate,
                roots: issued.roots,
                voters: issued.voters.into_iter().map(voter).collect::<Result<_, WireError>>()?,
                voter: issued.voter,
            }));
        }
        if !proto.ask.is_empty() {
            let address = |address| bounded(address, limits::ADDRESS_BYTES_MAX);
            let addresses = proto.ask.into_iter().map(address).collect::<Result<_, _>>()?;
            return Ok(JoinAnswer::Ask { addresses });
        }
        refusal_of(proto.refusal).map(JoinAnswer::Refused)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use crate::base::limits;
    use crate::wire::{
        Admission, JoinAnswer, JoinOrder, JoinRefusal, JoinRequest, WireError, encode_join_answer,
        encode_join_request, read_join_answer, read_join_request,
    };

    fn order() -> JoinOrder {
        JoinOrder {
            token: "0011223344556677".to_owned(),
            name: "web2".to_owned(),
            address: "10.0.0.2:7400".to_owned(),
            voter: true,
            request: Bytes::from_static(b"request"),
            proof: Bytes::from_static(b"proof"),
        }
    }

    #[test]
    fn what_is_said_is_heard() {
        for request in
            [JoinRequest::Join(order()), JoinRequest::Renew { request: Bytes::from_static(b"r") }]
        {
            let mut buffer = BytesMut::from(&encode_join_request(&request)[..]);
            assert_eq!(read_join_request(&mut buffer), Ok(Some(request)));
        }
        for answer in [
            JoinAnswer::Ask { addresses: vec!["a:1".to_owned(), "b:1".to_owned()] },
            JoinAnswer::Refused(JoinRefusal::Used),
            JoinAnswer::Issued(Admission {
                certificate: "c".to_owned(),
                roots: "r".to_owned(),
                voters: vec![("web1".to_owned(), "a:1".to_owned())],
                voter: false,
            }),
        ] {
            let mut buffer = BytesMut::from(&encode_join_answer(&answer)[..]);
            assert_eq!(read_join_answer(&mut buffer), Ok(Some(answer)));
        }
    }

    #[test]
    fn a_long_or_empty_request_is_refused() {
        let long = Bytes::from(vec![1; limits::JOIN_REQUEST_BYTES_MAX]);
        let request = JoinRequest::Join(JoinOrder { request: long, ..order() });
        let mut buffer = BytesMut::from(&encode_join_request(&request)[..64]);
        let limit = limits::JOIN_REQUEST_BYTES_MAX;
        assert_eq!(read_join_request(&mut buffer), Err(WireError::TooLong { limit }));
        let empty = JoinRequest::Join(JoinOrder { name: String::new(), ..order() });
        let mut buffer = BytesMut::from(&encode_join_request(&empty)[..]);
        assert!(read_join_request(&mut buffer).is_err());
    }

    #[test]
    fn the_proof_covers_every_field_and_the_connection() {
        let proven = order().proven(&[1; 32]);
        let mut others = vec![order().proven(&[2; 32])];
        others.push(JoinOrder { voter: false, ..order() }.proven(&[1; 32]));
        let moved = JoinOrder { token: "x".into(), name: "yz".into(), ..order() };
        let shifted = JoinOrder { token: "xy".into(), name: "z".into(), ..order() };
        assert_ne!(moved.proven(&[1; 32]), shifted.proven(&[1; 32]));
        others.push(JoinOrder { address: "b:1".into(), ..order() }.proven(&[1; 32]));
        others.push(JoinOrder { request: Bytes::new(), ..order() }.proven(&[1; 32]));
        assert!(others.iter().all(|other| *other != proven));
    }
}
