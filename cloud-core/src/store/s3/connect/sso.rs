//! Credentials of a person's single sign-on.
//!
//! `aws sso login` leaves a token in a file; with it the credentials of a role
//! are asked for. A token of a session can be renewed, for as long as the
//! session lives; the new one is written back, since the old one may be void.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig};
use serde_json::Value;
use sha1::{Digest, Sha1};

use super::ConnectError;
use super::chain::Sso;
use super::json::{text, time};
use super::services::{Services, quiet_config};

/// A token that lives no longer than this is renewed, if it can be.
const RENEW: Duration = Duration::from_mins(5);

impl Services {
    /// Step 4 of the chain. `home` holds the files that a login leaves.
    pub(super) async fn sign_on(
        &self,
        sso: &Sso,
        home: Option<PathBuf>,
    ) -> Result<Credentials, ConnectError> {
        let token = self.token(sso, home).await?;
        let settings = &self.settings;
        let mut config = quiet_config!(aws_sdk_sso, self.http)
            .region(Region::new(sso.region.clone()))
            .use_fips(settings.fips)
            .use_dual_stack(settings.dual_stack);
        config.set_endpoint_url(settings.sso_endpoint.clone());
        let answer = aws_sdk_sso::Client::from_conf(config.build())
            .get_role_credentials()
            .role_name(&sso.role)
            .account_id(&sso.account)
            .access_token(token)
            .send()
            .await;
        let doing = format!(
            "single sign-on of profile `{}` gave no credentials of the role `{}`",
            sso.profile, sso.role
        );
        let answer = answer.map_err(|error| {
            // 401: it does not know the token any more.
            let status = error.raw_response().map(|answer| answer.status().as_u16());
            match status {
                Some(401) => expired(sso),
                _ => ConnectError::of_service(&doing, &error),
            }
        })?;
        let given = answer.role_credentials.and_then(|given| {
            let expiry = u64::try_from(given.expiration).ok()?;
            Some(Credentials::new(
                given.access_key_id?,
                given.secret_access_key?,
                given.session_token,
                Some(SystemTime::UNIX_EPOCH + Duration::from_millis(expiry)),
                "sso",
            ))
        });
        given.ok_or_else(|| ConnectError::refused(format!("{doing}: the answer has none")))
    }

    /// The token that the last login left, renewed if it must be.
    async fn token(&self, sso: &Sso, home: Option<PathBuf>) -> Result<String, ConnectError> {
        let name = sso.session.as_ref().unwrap_or(&sso.start_url);
        let digest = Sha1::digest(name.as_bytes());
        let mut file = String::from(".aws/sso/cache/");
        for byte in &digest[..] {
            file.push_str(&format!("{byte:02x}"));
        }
        let path = home.unwrap_or_default().join(file + ".json");
        let login = || format!("run `aws sso login --profile {}`", sso.profile);
        let content = std::fs::read(&path).map_err(|error| {
            let shown = path.display();
            let profile = &sso.profile;
            ConnectError::refused(format!(
                "profile `{profile}` uses single sign-on, and its token `{shown}` cannot be read: \
                 {error}; {}",
                login()
            ))
        })?;
        let stored: Value = serde_json::from_slice(&content).unwrap_or_default();
        let (Some(token), Some(until)) = (text(&stored, "accessToken"), time(&stored, "expiresAt"))
        else {
            let shown = path.display();
            return Err(ConnectError::refused(format!(
                "`{shown}` holds no single sign-on token; {}",
                login()
            )));
        };
        let now = SystemTime::now();
        if until > now + RENEW {
            return Ok(token.to_owned());
        }
        if sso.session.is_some()
            && let Some(renewed) = self.renew(sso, &stored).await
        {
            let token = text(&renewed, "accessToken").map(str::to_owned);
            if let Err(error) = write_back(&path, &renewed) {
                tracing::debug!(%error, "the renewed single sign-on token was not written back");
            }
            return token.ok_or_else(|| expired(sso));
        }
        if until > now {
            return Ok(token.to_owned());
        }
        Err(expired(sso))
    }

    /// A new token for one that can be renewed; `None` if it cannot.
    async fn renew(&self, sso: &Sso, stored: &Value) -> Option<Value> {
        if time(stored, "registrationExpiresAt").is_some_and(|until| until <= SystemTime::now()) {
            return None;
        }
        let mut config = quiet_config!(aws_sdk_ssooidc, self.http)
            .region(Region::new(sso.region.clone()))
            .use_fips(self.settings.fips)
            .use_dual_stack(self.settings.dual_stack);
        config.set_endpoint_url(self.settings.oidc_endpoint.clone());
        let answer = aws_sdk_ssooidc::Client::from_conf(config.build())
            .create_token()
            .grant_type("refresh_token")
            .client_id(text(stored, "clientId")?)
            .client_secret(text(stored, "clientSecret")?)
            .refresh_token(text(stored, "refreshToken")?)
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let why = ConnectError::of_service("refused", &error);
                tracing::debug!(%why, "the single sign-on token was not renewed");
                return None;
            }
        };
        let lives = i64::from(answer.expires_in);
        let until = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(lives));
        let mut renewed = stored.clone();
        renewed["accessToken"] = answer.access_token?.into();
        renewed["expiresAt"] = until
            .ok()?
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string()
            .into();
        if let Some(next) = answer.refresh_token {
            renewed["refreshToken"] = next.into();
        }
        Some(renewed)
    }
}

fn expired(sso: &Sso) -> ConnectError {
    let profile = &sso.profile;
    ConnectError::refused(format!(
        "the single sign-on token of profile `{profile}` has expired: run `aws sso login \
         --profile {profile}`"
    ))
}

/// Replaces the file as a whole; other programs read it too.
fn write_back(path: &Path, token: &Value) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    // For nobody but this user, as `aws` makes it.
    let beside = directory.join(format!(".{}.tmp", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .open(&beside)?;
    file.write_all(token.to_string().as_bytes())?;
    std::fs::rename(&beside, path)
}
