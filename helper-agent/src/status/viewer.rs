//! Who looks at an instance, and what of it he may see and steer.

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// Root, and the user of an instance without root.
    All,
    /// The apps that run as this user.
    Owner(u32),
}

impl Viewer {
    /// Who a peer with that uid is for an instance that runs as `instance_uid`.
    #[must_use]
    pub fn of(uid: u32, instance_uid: u32) -> Self {
        if uid == 0 || uid == instance_uid {
            Self::All
        } else {
            Self::Owner(uid)
        }
    }

    /// Whether that viewer may see and steer what runs as `uid`; nobody but the first kind what has not
    /// run yet.
    #[must_use]
    pub fn may_see(self, uid: Option<u32>) -> bool {
        match self {
            Self::All => true,
            Self::Owner(own) => uid == Some(own),
        }
    }
}
