// Package cas keeps bytes at rest: blocks that are sealed before they are
// addressed, the manifests that name them, and the keys that open them.
package cas
