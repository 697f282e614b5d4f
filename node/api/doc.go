// Package api is a node's HTTP face: DICOMweb mounted at /dicom-web, the
// operator API at /api/v1 (operator.go says its calls and shapes), metrics,
// and the health checks; and the client that the commands use for the operator
// API.
//
// It translates; it decides nothing. DICOMweb's own rules are
// dicom/dicomweb's; what is stored, found and brought is node/archive's. What
// may not be here: storage, peers, policy.
package api
