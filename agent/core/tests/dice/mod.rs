//! Chance that can be repeated: the same seed makes the same case, and a failing test names its seed (`SEED=…` runs it again).

/// xorshift64*.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = usize::try_from(self.roll(of.len() as u64)).unwrap_or(0);
        &of[at]
    }
}

/// From the environment: a number, or `clock` for another one each time. Without it always the same, so that a test that
/// passed yesterday does not fail today for what nobody has changed.
pub fn seed() -> u64 {
    match std::env::var("SEED").as_deref() {
        Ok("clock") => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |d| u64::from(d.subsec_nanos()) | 1)
        }
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 7,
    }
}
