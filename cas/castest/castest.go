// Package castest is the contract of cas.Store as one test suite that every backend passes.
package castest
