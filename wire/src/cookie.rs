//! The cookie that proves an address, so that a node never sends more to a stranger than it got (`docs/protocol.md
//! §7`). It is a hash, not an entry: a node keeps nothing per client.

use crate::ids::ClientId;
use crate::siphash::{SipKey, siphash_2_4};

/// For how long a cookie is handed out before the next one, in seconds. It is accepted for one window more.
pub const COOKIE_WINDOW_S: u64 = 60;

/// Known to one data node only; drawn anew at every start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CookieSecret(pub SipKey);

/// Proof that its holder receives what is sent to an address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cookie(pub u64);

impl CookieSecret {
    /// The cookie of this address in the window that `now_s` lies in. IPv4 addresses are mapped into IPv6
    /// (RFC 4291 §2.5.5.2).
    #[must_use]
    pub fn cookie(&self, address: [u8; 16], port: u16, client: ClientId, now_s: u64) -> Cookie {
        self.in_window(address, port, client, now_s / COOKIE_WINDOW_S)
    }

    /// Whether `cookie` is the one of this address, now or one window ago.
    #[must_use]
    pub fn accepts(
        &self,
        cookie: Cookie,
        address: [u8; 16],
        port: u16,
        client: ClientId,
        now_s: u64,
    ) -> bool {
        let window = now_s / COOKIE_WINDOW_S;
        cookie == self.in_window(address, port, client, window)
            || window > 0 && cookie == self.in_window(address, port, client, window - 1)
    }

    fn in_window(&self, address: [u8; 16], port: u16, client: ClientId, window: u64) -> Cookie {
        let address = u128::from_le_bytes(address);
        let words =
            [address as u64, (address >> 64) as u64, u64::from(port) | u64::from(client.0) << 32, window];
        Cookie(siphash_2_4(self.0, &words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_address_and_for_two_windows() {
        let secret = CookieSecret(SipKey { k0: 5, k1: 6 });
        let cookie = secret.cookie([1; 16], 80, ClientId(1), 600);
        assert!(secret.accepts(cookie, [1; 16], 80, ClientId(1), 600 + COOKIE_WINDOW_S));
        assert!(!secret.accepts(cookie, [1; 16], 80, ClientId(1), 600 + 2 * COOKIE_WINDOW_S));
        assert!(!secret.accepts(cookie, [2; 16], 80, ClientId(1), 600));
        assert!(!secret.accepts(cookie, [1; 16], 81, ClientId(1), 600));
        assert!(!secret.accepts(cookie, [1; 16], 80, ClientId(2), 600));
    }
}
