//! The service Membership: a machine joins, a host renews its certificate.

use super::door::caller;
use crate::controller::Controller;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use weft_proto::fault::Fault;
use weft_proto::v1;

/// The service Membership.
pub struct MembershipService {
    controller: Arc<Controller>,
}

impl MembershipService {
    /// On a controller.
    pub fn new(controller: Arc<Controller>) -> Self {
        Self { controller }
    }
}

#[tonic::async_trait]
impl v1::membership_server::Membership for MembershipService {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::IssuedCertificate>, Status> {
        let joined = self.controller.join(request.into_inner()).await;
        joined.map(Response::new).map_err(|fault| {
            tracing::warn!(%fault, "a machine was not let join");
            fault.into_status()
        })
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::IssuedCertificate>, Status> {
        let key = caller(&request)?.host().ok_or_else(|| {
            Fault::invalid("not_a_host", "", "only a host has a certificate to renew", "Call it as one.")
                .with_status(tonic::Code::PermissionDenied)
        })?;
        Ok(Response::new(self.controller.renew(key.host, key.certificate, request.into_inner()).await?))
    }
}
