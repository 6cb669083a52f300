//! How nodes come to talk to each other: dials, hellos and what each side makes of them, links that
//! are lost.
//!
//! Which messages then arrive is decided in `network.rs`.

use quorumd::replica::Event;
use quorumd::wire::{
    Hello, HelloAnswer, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    decode_hello, decode_hello_answer, encode_hello, encode_hello_answer,
};

use crate::cluster::{Cluster, Happening};
use crate::node::CLUSTER;

impl Cluster {
    pub(crate) fn dial_again(&mut self, from: usize, to: usize) {
        self.dialling.remove(&(from, to));
        self.plan_dial(from, to);
    }

    pub(crate) fn plan_dial(&mut self, from: usize, to: usize) {
        if self.nodes[from].process.is_none() || !self.dialling.insert((from, to)) {
            return;
        }
        let (life, after) = (self.nodes[from].life, 500 + self.rng.below(100_000));
        self.plan(after, Happening::Dial { from, to, life });
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize) {
        if self.network.is_up(from, to) {
            self.dialling.remove(&(from, to));
            return;
        }
        let reaches = self.nodes[to].runs()
            && self.nodes[from].runs()
            && !self.network.is_cut(from, to)
            && !self.network.is_cut(to, from);
        if !reaches {
            self.dial_again(from, to);
            return;
        }
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            class: LinkClass::Consensus,
            cluster_name: CLUSTER.to_owned(),
            name: self.nodes[from].name.clone(),
            to_name: self.nodes[to].name.clone(),
            to_node: None,
            claim: self.roster(from).claim(),
        };
        let hello = decode_hello(&encode_hello(&hello)).expect("a hello can be decoded");
        let (life, after) = (self.nodes[from].life, self.network.delay(&mut self.rng));
        self.plan(after, Happening::HelloArrives { from, to, life, hello });
    }

    pub(crate) fn roster(
        &self,
        node: usize,
    ) -> std::sync::MutexGuard<'_, quorumd::replica::Roster> {
        // The guard lives as long as the roster, which the replica owns as well.
        let process = self.nodes[node].process.as_ref().expect("it runs");
        process.roster.lock().expect("nobody panics while it is locked")
    }

    pub(crate) fn hello_arrives(&mut self, from: usize, to: usize, hello: &Hello) {
        if !self.nodes[to].runs() {
            self.dial_again(from, to);
            return;
        }
        let answer = self.roster(to).judge(hello);
        if let HelloAnswer::Accepted { .. } = &answer {
            self.roster(to).mark_boot(&hello.claim);
        }
        let (dialer, judge) = (self.nodes[from].id, self.nodes[to].id);
        // A node that has not heard of a replacement knows the former incarnation.
        let known = self.operator.wiped == 0;
        crate::ensure!(
            answer != HelloAnswer::Refused(HelloRefusal::RolledBack)
                && !(known && answer == HelloAnswer::Refused(HelloRefusal::Incarnation)),
            "no_false_refusal",
            "n{judge} refuses n{dialer} with {:?}: {answer:?}",
            hello.claim
        );
        let answer = decode_hello_answer(&encode_hello_answer(&answer)).expect("it can be decoded");
        let (life, after) = (self.nodes[from].life, self.network.delay(&mut self.rng));
        self.plan(after, Happening::AnswerArrives { from, to, life, answer });
    }

    pub(crate) fn answer_arrives(&mut self, from: usize, to: usize, answer: &HelloAnswer) {
        if !self.nodes[from].runs() || self.nodes[to].process.is_none() {
            self.dial_again(from, to);
            return;
        }
        let accepted = self.roster(from).accept_answer(&self.nodes[to].name, answer);
        let peer = self.nodes[to].id;
        match (accepted, answer) {
            (Ok(_), HelloAnswer::Accepted { claim, .. }) => {
                self.roster(from).mark_answer(claim);
                self.network.set_up(from, to);
                self.dialling.remove(&(from, to));
                self.say(format!("n{} -> n{peer} is up", self.nodes[from].id));
                self.handle(from, Event::PeerUp { peer });
            }
            // An answer that was overtaken by an acknowledgement looks old: ask again.
            _ => self.dial_again(from, to),
        }
    }

    /// A node notices that its link to a peer is gone, and dials again.
    pub fn link_lost(&mut self, from: usize, to: usize, redial_failed: bool) {
        if self.network.set_down(from, to) {
            let peer = self.nodes[to].id;
            self.say(format!("n{} lost n{peer}", self.nodes[from].id));
            self.handle(from, Event::PeerDown { peer, redial_failed });
            self.plan_dial(from, to);
        }
    }
}
