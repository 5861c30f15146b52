//! The HTTP client below `object_store`: `ureq`, which the hub's transfer uses as well, instead of that crate's own
//! (`reqwest`), which would bring a second TLS. It blocks; whoever asks waits anyway. Bodies arrive whole: nobody asks for
//! more of an object than a part.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use ureq::config::RedirectAuthHeaders;
use ureq::{Agent, http};

/// Where machines in a cloud ask who they are. Elsewhere nobody answers there, and nobody should wait for it.
const METADATA: &str = "169.254.";

/// Makes [`Transport`]s.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connector {
    /// How many redirections are followed: none of a signed request.
    pub redirections: u32,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(self.redirections)
            .max_redirects_will_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("semanticist/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(16)
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build()
            .into();
        Ok(HttpClient::new(Transport(agent)))
    }
}

#[derive(Debug)]
struct Transport(Agent);

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.exchange(request).map_err(|error| {
            let kind = match &error {
                ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
                ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => HttpErrorKind::Connect,
                _ => HttpErrorKind::Interrupted,
            };
            let source: Box<dyn Error + Send + Sync> = Box::new(error);
            HttpError::new_boxed(kind, source)
        })
    }
}

impl Transport {
    fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, ureq::Error> {
        let (parts, body) = request.into_parts();
        let metadata = parts.uri.host().is_some_and(|host| host.starts_with(METADATA));
        let mut response = match body.as_bytes().filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => self.0.run(http::Request::from_parts(parts, &bytes[..])),
            None if metadata => {
                let request = self.0.configure_request(http::Request::from_parts(parts, ()));
                self.0.run(request.timeout_connect(Some(Duration::from_secs(1))).build())
            }
            None => self.0.run(http::Request::from_parts(parts, ())),
        }?;
        let bytes = response.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
        let (parts, _) = response.into_parts();
        Ok(HttpResponse::from_parts(parts, bytes.into()))
    }
}
