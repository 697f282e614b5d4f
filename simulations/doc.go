// Package simulations will run whole regions under virtual time: the same node
// logic that runs in hospitals, with clock, randomness, disks and links given
// to it by a seeded world.
//
// So far here is what the worlds will be filled with: package synthetic makes up
// the studies of a region, package link is the lines between its trusts.
//
// What will live here: worlds (trusts, links, workloads), faults (loss, delay,
// partition, crash, full disk, restored backup), invariants that must hold at
// every step (nothing acknowledged is lost; what is served is what was
// received; an answer that is not complete says so), and reports. What may not:
// a second implementation of anything it simulates. If logic cannot run here,
// the logic is changed, not imitated.
//
// Arrows: simulations imports node and what is below it; nothing imports
// simulations but cmd/priormesh and, for its studies and lines, interop.
//
// The format it will write is a report of one run: the scenario, the seed by
// which it replays step for step, what was checked, and what failed at which
// step.
package simulations
