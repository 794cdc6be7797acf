//! Messages as JSON, by protobuf's rules (prost-reflect), with the choices that etcd makes: names as in the .proto
//! files, fields without a value left out, unknown fields and enum values in requests ignored.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Deserializer, Serializer, json};

use super::super::status::{Code, Status};

/// Finds JSON objects in a sequence of bytes that arrives bit by bit. Each byte is looked at once, and only for where
/// objects end: whether one is right, `decode` says.
#[derive(Debug)]
pub(super) struct Values {
    buffer: BytesMut,
    /// Of one value.
    most_bytes: usize,
    /// How far the buffer has been looked at.
    scanned: usize,
    /// Brackets that are open there.
    depth: usize,
    in_string: bool,
    /// Whether the byte before was a backslash that counts.
    escaped: bool,
}

impl Values {
    pub(super) fn new(most_bytes: usize) -> Values {
        let buffer = BytesMut::new();
        Values { buffer, most_bytes, scanned: 0, depth: 0, in_string: false, escaped: false }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value, if it is there as a whole.
    ///
    /// # Errors
    /// What can be no message, or is too long.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.scanned == 0 {
            let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.buffer.advance(blank);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => {
                    let token = char::from(*other);
                    let text = format!("proto: syntax error (line 1:1): unexpected token {token}");
                    return Err(Status::new(Code::InvalidArgument, text));
                }
            }
        }
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            self.scanned += 1;
            if self.is_end(byte) {
                let end = std::mem::take(&mut self.scanned);
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
        }
        match self.buffer.len() > self.most_bytes {
            true => Err(Status::new(
                Code::ResourceExhausted,
                format!("instar: a JSON value of more than {} bytes", self.most_bytes),
            )),
            false => Ok(None),
        }
    }

    /// Whether an object ends with this byte.
    fn is_end(&mut self, byte: u8) -> bool {
        match byte {
            _ if std::mem::take(&mut self.escaped) => {}
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Says whether the bytes may end here.
    ///
    /// # Errors
    /// A value that has begun.
    pub(super) fn end(&self) -> Result<(), Status> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(Status::new(Code::InvalidArgument, "unexpected EOF")),
        }
    }
}

fn invalid(error: &serde_json::Error) -> Status {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    Status::new(Code::InvalidArgument, format!("proto: (line {line}:{column}): {text}"))
}

/// A request message from its JSON.
///
/// # Errors
/// JSON that is no such message.
pub(super) fn decode(descriptor: MessageDescriptor, value: &[u8]) -> Result<Bytes, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let mut deserializer = Deserializer::from_slice(value);
    let message = DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options)
        .map_err(|error| invalid(&error))?;
    Ok(message.encode_to_vec().into())
}

/// A response message as JSON.
///
/// # Errors
/// Bytes that are no such message.
pub(super) fn encode(descriptor: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let internal = |error: String| Status::new(Code::Internal, error);
    let message =
        DynamicMessage::decode(descriptor, message).map_err(|it| internal(it.to_string()))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut json = Vec::new();
    message
        .serialize_with_options(&mut Serializer::new(&mut json), &options)
        .map_err(|error| internal(error.to_string()))?;
    Ok(json)
}

/// A message of a stream: `{"result":…}` and a line break.
pub(super) fn result_line(json: &[u8]) -> Bytes {
    [b"{\"result\":", json, b"}\n"].concat().into()
}

/// `google.rpc.Status`.
pub(super) fn status(status: &Status) -> serde_json::Value {
    match status.message.as_str() {
        "" => json!({ "code": status.code }),
        message => json!({ "code": status.code, "message": message }),
    }
}

/// The end of a stream that failed.
pub(super) fn error_line(failure: &Status) -> String {
    format!("{}\n", json!({ "error": status(failure) }))
}

#[cfg(test)]
mod tests {
    use super::super::super::descriptors;
    use super::*;
    use proto::etcdserverpb as pb;

    fn descriptor(name: &str) -> MessageDescriptor {
        descriptors::pool().get_message_by_name(&format!("etcdserverpb.{name}")).unwrap()
    }

    fn range(json: &str) -> Result<pb::RangeRequest, u32> {
        let bytes = decode(descriptor("RangeRequest"), json.as_bytes());
        bytes.map(|bytes| pb::RangeRequest::decode(bytes).unwrap()).map_err(|status| status.code)
    }

    #[test]
    fn requests_are_read_as_etcd_reads_them() {
        let expected = pb::RangeRequest {
            key: Bytes::from_static(b"foo"),
            range_end: Bytes::from_static(&[0xff]),
            limit: 5,
            sort_order: 2,
            ..Default::default()
        };
        for json in [
            r#"{"key":"Zm9v","range_end":"/w==","limit":"5","sort_order":"DESCEND"}"#,
            r#"{"key":"Zm9v","rangeEnd":"_w","limit":5,"sortOrder":2,"unknown":{"a":[1]}}"#,
            r#"{"key":"Zm9v","range_end":"/w","limit":5.0,"sort_order":2,"revision":null}"#,
        ] {
            assert_eq!(range(json), Ok(expected.clone()), "{json}");
        }
        // An enum value that nobody knows counts as none.
        assert_eq!(range(r#"{"sort_order":"UP"}"#), Ok(pb::RangeRequest::default()));
        for json in [
            "[]",
            "1",
            "\"\"",
            r#"{"key":1}"#,
            r#"{"key":"!!"}"#,
            r#"{"limit":"x"}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":99999999999999999999}"#,
            r#"{"keys_only":1}"#,
            r#"{"key":"Zm9v""#,
        ] {
            assert_eq!(range(json), Err(3), "{json}");
        }
    }

    #[test]
    fn responses_are_written_as_etcd_writes_them() {
        let response = pb::StatusResponse {
            header: Some(pb::ResponseHeader { cluster_id: u64::MAX, ..Default::default() }),
            db_size: 20_480,
            is_learner: false,
            downgrade_info: Some(pb::DowngradeInfo::default()),
            ..Default::default()
        };
        let json = encode(descriptor("StatusResponse"), response.encode_to_vec().into()).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"header":{"cluster_id":"18446744073709551615"},"dbSize":"20480","downgradeInfo":{}}"#
        );
        let alarm = pb::AlarmResponse {
            alarms: vec![
                pb::AlarmMember { alarm: 1, ..Default::default() },
                pb::AlarmMember { alarm: 7, member_id: 5 },
            ],
            ..Default::default()
        };
        let json = encode(descriptor("AlarmResponse"), alarm.encode_to_vec().into()).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"alarms":[{"alarm":"NOSPACE"},{"memberID":"5","alarm":7}]}"#
        );
    }

    #[test]
    fn values_are_found_however_they_are_cut() {
        let text = "{\"a\":1} \n{\"b\":\"}\\\\\\\"}\",\"c\":[{}]}{}  ";
        for cut in 1..text.len() {
            let mut values = Values::new(100);
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                values.push(piece);
                while let Some(value) = values.next().unwrap() {
                    found.push(String::from_utf8(value.to_vec()).unwrap().trim().to_owned());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":\"}\\\\\\\"}\",\"c\":[{}]}", "{}"], "{cut}");
            assert_eq!(values.end(), Ok(()));
        }
        let mut values = Values::new(4);
        values.push(b"{\"a");
        assert_eq!((values.next(), values.end().unwrap_err().code), (Ok(None), 3));
        values.push(b"bc");
        assert_eq!(values.next().unwrap_err().code, 8);
        let mut values = Values::new(4);
        values.push(b"x");
        assert_eq!(values.next().unwrap_err().code, 3);
    }
}
