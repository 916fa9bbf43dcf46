//! Writing a chunk: open, pieces in batches within window and credit, commit, receipt. A chunk of one piece goes in
//! one datagram.

mod upload;

use std::time::{Duration, Instant};

use bytes::Bytes;
use xdpfs_wire::payload::{ChunkSum, REQUEST_PADDING_MIN, Sack};
use xdpfs_wire::{Advice, Header, Opcode, PieceClass, Receipt, RequestId, Status};

use super::link::{Link, Size};
use super::{Context, Outcome, Requests, Step, TransferError, busy_delay};
use crate::datagram;
use upload::Upload;

/// When to ask again after a node has said that it is making the chunk durable.
const COMMIT_PATIENCE: Duration = Duration::from_millis(200);

/// An upload that is displaced more often makes no sense to the node.
const DISPLACED_MAX: u32 = 8;

pub(crate) struct Write {
    /// `None`: nothing to send, only to ask whether the node has it.
    data: Option<Bytes>,
    length: u32,
    crc: u32,
    state: State,
    not_before: Option<Instant>,
    /// Times that the node had another upload in this one's place.
    displaced: u32,
}

/// What the transfer waits for.
enum State {
    /// For the path's class, or for the first datagram to go out.
    ExpectPath,
    /// For the receipt of a chunk in one datagram.
    ExpectWhole(Exchange, PieceClass),
    /// For the first credit.
    ExpectCredit(Exchange, PieceClass),
    /// For pieces to be acknowledged.
    ExpectPieces(Upload),
    /// For the receipt, or for word of missing pieces.
    ExpectReceipt(Exchange, Option<Upload>),
    /// For nothing: the receipt is there.
    Done,
}

/// One request that is repeated until it is answered.
struct Exchange {
    request: RequestId,
    deadline: Instant,
    sent_at: Instant,
    attempts: u32,
    to_send: bool,
}

impl Exchange {
    fn new(cx: &mut Context<'_>) -> Self {
        Self { request: cx.issue(), deadline: cx.now, sent_at: cx.now, attempts: 0, to_send: true }
    }

    fn note_sent(&mut self, now: Instant, timeout: Duration) {
        self.to_send = false;
        self.sent_at = now;
        self.deadline = now + timeout;
    }

    /// Whether the timer ran out; then the request is due again.
    fn expire(&mut self, cx: &mut Context<'_>) -> bool {
        let expired = !self.to_send && self.deadline <= cx.now;
        if expired {
            cx.counters.timeouts += 1;
            self.attempts += 1;
            self.to_send = true;
            cx.link.note_timeout(cx.now, cx.to, Size::Single);
        }
        expired
    }

    fn sample_rtt(&self, cx: &mut Context<'_>) {
        if self.attempts == 0 {
            cx.link.rtt.sample(cx.now.saturating_duration_since(self.sent_at));
        }
    }
}

impl Write {
    pub(crate) fn new(data: Bytes, crc: u32) -> Self {
        let length = data.len() as u32;
        Self { data: Some(data), length, crc, state: State::ExpectPath, not_before: None, displaced: 0 }
    }

    pub(crate) fn confirm(length: u32, crc: u32) -> Self {
        Self { data: None, length, crc, state: State::ExpectPath, not_before: None, displaced: 0 }
    }

    /// Bytes that have yet to arrive.
    pub(crate) fn remaining(&self) -> u32 {
        match &self.state {
            State::ExpectPieces(upload) | State::ExpectReceipt(_, Some(upload)) => upload.remaining(),
            State::ExpectReceipt(_, None) | State::Done => 0,
            State::ExpectPath | State::ExpectWhole(..) | State::ExpectCredit(..) => self.length,
        }
    }

    /// Whether it has yet to send anything.
    pub(crate) fn has_sent_nothing(&self) -> bool {
        matches!(self.state, State::ExpectPath)
    }

    /// Whether what was sent last must not leave as a super-packet.
    pub(crate) fn sends_singly(&self) -> bool {
        matches!(&self.state, State::ExpectPieces(upload) if upload.sends_singly())
    }

    pub(crate) fn poll_transmit(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Option<usize> {
        if self.not_before.is_some_and(|at| cx.now < at) {
            return None;
        }
        if matches!(self.state, State::ExpectPath) {
            self.state = self.begin(cx)?;
        }
        if let State::ExpectPieces(upload) = &mut self.state {
            if let Some(data) = &self.data
                && let Some(segment) = upload.poll_transmit(cx, data, out)
            {
                return Some(segment);
            }
            if !upload.all_sent() {
                return None;
            }
            self.commit(cx);
        }
        self.send_exchange(cx, out)
    }

    fn begin(&self, cx: &mut Context<'_>) -> Option<State> {
        if self.data.is_none() {
            return Some(State::ExpectReceipt(Exchange::new(cx), None));
        }
        let smallest = PieceClass::Small;
        let class = if cx.link.known_class().is_none() && self.length <= smallest.piece_len() {
            smallest
        } else {
            cx.link.class(cx.now, cx.to)?
        };
        Some(if self.length <= class.piece_len() {
            State::ExpectWhole(Exchange::new(cx), class)
        } else {
            State::ExpectCredit(Exchange::new(cx), class)
        })
    }

    /// Everything was sent: asks for the receipt at once, which also tells what is missing.
    fn commit(&mut self, cx: &mut Context<'_>) {
        if let State::ExpectPieces(upload) = std::mem::replace(&mut self.state, State::ExpectPath) {
            self.state = State::ExpectReceipt(Exchange::new(cx), Some(upload));
        }
    }

    fn send_exchange(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Option<usize> {
        let sum = ChunkSum { crc: self.crc }.encode();
        let (exchange, opcode, class) = match &mut self.state {
            State::ExpectWhole(exchange, class) => (exchange, Opcode::PutWhole, *class),
            State::ExpectCredit(exchange, class) => (exchange, Opcode::PutOpen, *class),
            State::ExpectReceipt(exchange, upload) => {
                let class = upload.as_ref().map_or(PieceClass::Small, Upload::class);
                (exchange, Opcode::PutCommit, class)
            }
            State::ExpectPath | State::ExpectPieces(_) | State::Done => return None,
        };
        if !exchange.to_send {
            return None;
        }
        let payload = match (&self.data, opcode) {
            (Some(data), Opcode::PutWhole) => data.as_ref(),
            _ => &sum,
        };
        let mut header = cx.to.header(opcode, class, exchange.request);
        header.length = self.length;
        datagram::append(out, cx.to.session.key, header, payload, REQUEST_PADDING_MIN);
        // A node that is still making the chunk durable says so when it is asked again.
        exchange.note_sent(cx.now, cx.link.rtt.timeout(exchange.attempts));
        Some(out.len())
    }

    pub(crate) fn handle_reply(&mut self, cx: &mut Context<'_>, header: &Header, payload: &[u8]) -> Step {
        match (header.opcode, header.status) {
            (Opcode::Receipt, Status::Ok) => self.handle_receipt(cx, header, payload),
            (Opcode::Sack, Status::Ok) => match Sack::parse(payload) {
                Some(sack) => self.handle_sack(cx, header, &sack),
                None => Step::Idle,
            },
            (_, status) => self.handle_refusal(cx, status, header),
        }
    }

    fn handle_receipt(&mut self, cx: &mut Context<'_>, header: &Header, payload: &[u8]) -> Step {
        let Some(receipt) = Receipt::parse(header, payload) else { return Step::Idle };
        cx.link.note_alive(Size::Single);
        if receipt.length != self.length || receipt.crc != self.crc || receipt.node != cx.to.target.node {
            return Step::Finished(Err(TransferError::Corrupt));
        }
        if let State::ExpectPieces(upload) | State::ExpectReceipt(_, Some(upload)) = &mut self.state {
            upload.release(cx.link, cx.requests);
        }
        if let Some(exchange) = self.exchange() {
            cx.requests.retire(exchange.request);
        }
        self.state = State::Done;
        Step::Finished(Ok(Outcome::Durable(receipt)))
    }

    fn handle_sack(&mut self, cx: &mut Context<'_>, header: &Header, sack: &Sack) -> Step {
        match std::mem::replace(&mut self.state, State::ExpectPath) {
            State::ExpectCredit(exchange, class) => {
                exchange.sample_rtt(cx);
                cx.requests.retire(exchange.request);
                let mut upload = Upload::new(self.length, class);
                upload.handle_sack(cx, header, sack);
                self.state = State::ExpectPieces(upload);
                Step::Progress
            }
            State::ExpectPieces(mut upload) => {
                let progress = upload.handle_sack(cx, header, sack);
                self.state = State::ExpectPieces(upload);
                if progress { Step::Progress } else { Step::Idle }
            }
            State::ExpectReceipt(exchange, Some(upload)) => self.resume(cx, exchange, upload, header, sack),
            // The node is still making the chunk durable.
            State::ExpectWhole(mut exchange, class) => {
                exchange.deadline = cx.now + COMMIT_PATIENCE;
                self.state = State::ExpectWhole(exchange, class);
                Step::Progress
            }
            State::ExpectReceipt(mut exchange, None) => {
                exchange.deadline = cx.now + COMMIT_PATIENCE;
                self.state = State::ExpectReceipt(exchange, None);
                Step::Progress
            }
            same @ (State::ExpectPath | State::Done) => {
                self.state = same;
                Step::Idle
            }
        }
    }

    /// A sack while the receipt is due: the node works on it, or pieces are missing.
    fn resume(
        &mut self,
        cx: &mut Context<'_>,
        mut exchange: Exchange,
        mut upload: Upload,
        header: &Header,
        sack: &Sack,
    ) -> Step {
        let progress = upload.handle_sack(cx, header, sack);
        let answers_commit = header.request == exchange.request;
        if answers_commit && !upload.is_complete() {
            cx.requests.retire(exchange.request);
            upload.resend_missing(cx);
            if !progress {
                // Requests pass and pieces don't.
                cx.link.note_timeout(cx.now, cx.to, Size::Batch);
                upload.note_stall();
            }
            self.state = State::ExpectPieces(upload);
            return if progress { Step::Progress } else { Step::Idle };
        }
        if answers_commit {
            exchange.deadline = cx.now + COMMIT_PATIENCE;
        }
        self.state = State::ExpectReceipt(exchange, Some(upload));
        if progress || answers_commit { Step::Progress } else { Step::Idle }
    }

    fn handle_refusal(&mut self, cx: &mut Context<'_>, status: Status, header: &Header) -> Step {
        match status {
            Status::NotOpen if self.data.is_some() => {
                self.restart(cx);
                Step::Idle
            }
            // A late copy of an earlier PutOpen, in another class, has taken this one's place.
            Status::Invalid if self.is_uploading() && self.displaced < DISPLACED_MAX => {
                self.displaced += 1;
                self.restart(cx);
                Step::Idle
            }
            _ if status.advice() == Advice::Retry && status != Status::NotOpen => {
                self.not_before = Some(cx.now + busy_delay(header.length));
                if let Some(exchange) = self.exchange() {
                    exchange.to_send = true;
                }
                Step::Progress
            }
            _ => Step::Finished(Err(TransferError::Refused(status))),
        }
    }

    /// The node has forgotten the upload: from the beginning.
    fn restart(&mut self, cx: &mut Context<'_>) {
        if let State::ExpectPieces(upload) | State::ExpectReceipt(_, Some(upload)) = &mut self.state {
            upload.release(cx.link, cx.requests);
        }
        if let Some(exchange) = self.exchange() {
            let request = exchange.request;
            cx.requests.retire(request);
        }
        self.state = State::ExpectPath;
    }

    fn is_uploading(&self) -> bool {
        matches!(self.state, State::ExpectPieces(_) | State::ExpectReceipt(_, Some(_)))
    }

    fn exchange(&mut self) -> Option<&mut Exchange> {
        match &mut self.state {
            State::ExpectWhole(exchange, _)
            | State::ExpectCredit(exchange, _)
            | State::ExpectReceipt(exchange, _) => Some(exchange),
            State::ExpectPath | State::ExpectPieces(_) | State::Done => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) -> Step {
        if self.not_before.is_some_and(|at| at <= cx.now) {
            self.not_before = None;
        }
        if let State::ExpectPieces(upload) = &mut self.state {
            upload.handle_timeout(cx);
        }
        let expired = self.exchange().is_some_and(|exchange| exchange.expire(cx));
        let class = match &self.state {
            State::ExpectWhole(_, class) | State::ExpectCredit(_, class) => Some(*class),
            State::ExpectPieces(upload) | State::ExpectReceipt(_, Some(upload)) => Some(upload.class()),
            State::ExpectPath | State::ExpectReceipt(_, None) | State::Done => None,
        };
        let shrunk = class.zip(cx.link.known_class()).is_some_and(|(used, passing)| passing < used);
        if shrunk && (expired || matches!(self.state, State::ExpectPieces(_))) {
            self.restart(cx);
        }
        Step::Idle
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::ExpectWhole(exchange, _)
            | State::ExpectCredit(exchange, _)
            | State::ExpectReceipt(exchange, _) => (!exchange.to_send).then_some(exchange.deadline),
            State::ExpectPieces(upload) => upload.poll_timeout(),
            State::ExpectPath | State::Done => None,
        };
        own.into_iter().chain(self.not_before).min()
    }

    /// Gives back what the transfer holds. Answers the class of an upload that the node should forget.
    pub(crate) fn release(mut self, link: &mut Link, requests: &mut Requests) -> Option<PieceClass> {
        if let Some(exchange) = self.exchange() {
            let request = exchange.request;
            requests.retire(request);
        }
        match self.state {
            State::ExpectPieces(mut upload) | State::ExpectReceipt(_, Some(mut upload)) => {
                upload.release(link, requests);
                Some(upload.class())
            }
            State::ExpectCredit(_, class) => Some(class),
            State::ExpectPath | State::ExpectWhole(..) | State::ExpectReceipt(_, None) | State::Done => None,
        }
    }
}
